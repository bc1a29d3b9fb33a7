//! Containment: a profile against what this kernel can enforce
