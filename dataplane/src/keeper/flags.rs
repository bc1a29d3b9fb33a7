//! The keeper's command line. Only [`link::launch`](crate::keeper::link::launch) writes one.

use crate::keeper::link::{CgroupUse, OnKernelLoss};
use crate::keeper::protocol::VERSION;
use crate::sys::process;
use std::ffi::OsString;
use std::path::PathBuf;

/// The command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) lanes: Vec<i32>,
    pub(super) on_kernel_loss: OnKernelLoss,
    pub(super) embedded: bool,
    /// Soft and hard, for children.
    pub(super) nofile: (u64, u64),
    pub(super) cgroups: CgroupUse,
    /// The highest version to speak.
    pub(super) version: u16,
    /// Begin with what a former keeper left here.
    pub(super) resume: Option<PathBuf>,
}

impl Flags {
    pub(super) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Flags, String> {
        let mut flags = Flags {
            lanes: Vec::new(),
            on_kernel_loss: OnKernelLoss::End,
            embedded: false,
            nofile: process::descriptor_limit(),
            cgroups: CgroupUse::Limits,
            version: VERSION,
            resume: None,
        };
        let (mut hold, mut handover) = (false, None);
        while let Some(flag) = arguments.next() {
            let flag = flag.into_string().map_err(|flag| format!("unknown flag {flag:?}"))?;
            if flag == "--embedded" {
                flags.embedded = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
            if flag == "--handover" {
                handover = Some(value.into());
                continue;
            }
            if flag == "--resume" {
                flags.resume = Some(value.into());
                continue;
            }
            let value = value.into_string().map_err(|value| format!("{flag} cannot be {value:?}"))?;
            let wrong = || format!("{flag} cannot be {value:?}");
            match (flag.as_str(), value.as_str()) {
                ("--lane", number) => flags.lanes.push(number.parse().map_err(|_| wrong())?),
                ("--on-kernel-loss", "end") => hold = false,
                ("--on-kernel-loss", "hold") => hold = true,
                ("--cgroups", "limits") => flags.cgroups = CgroupUse::Limits,
                ("--cgroups", "always") => flags.cgroups = CgroupUse::Always,
                ("--cgroups", "never") => flags.cgroups = CgroupUse::Never,
                ("--speak", number) => {
                    flags.version = number.parse().ok().filter(|it| *it <= VERSION).ok_or_else(wrong)?;
                }
                ("--nofile", pair) => {
                    let (soft, hard) = pair.split_once(':').ok_or_else(wrong)?;
                    flags.nofile = (soft.parse().map_err(|_| wrong())?, hard.parse().map_err(|_| wrong())?);
                }
                _ => return Err(format!("unknown flag {flag} {value}")),
            }
        }
        if hold {
            let handover = handover.ok_or("--on-kernel-loss hold needs --handover PATH")?;
            flags.on_kernel_loss = OnKernelLoss::Hold { handover };
        }
        if flags.lanes.is_empty() && flags.resume.is_none() {
            return Err("a keeper is started by kairo itself: no --lane was given".into());
        }
        Ok(flags)
    }
}
