//! Whatever the text: no panic, a refusal says why, and what is taken has a profile that makes sense, a digest that doesn't
//! depend on how it was read, and nothing new beside itself.

use kairo_sandbox::ability::Ability;
use kairo_sandbox::manifest::syntax::Syntax;
use kairo_sandbox::manifest::{self, words};
use kairo_sandbox::plan::{Place, Plan};

/// The input is a manifest in each syntax.
pub(crate) fn manifest(input: &[u8]) {
    let mut digests = Vec::new();
    for syntax in [Syntax::Json, Syntax::Yaml, Syntax::Toml] {
        match manifest::read(input, syntax) {
            Err(refusal) => {
                assert!(!refusal.why.is_empty());
                let shown = refusal.to_string();
                assert!(!shown.starts_with(':') && !refusal.field.contains(char::is_control), "{shown:?}");
            }
            Ok(read) => {
                let profile = read.profile();
                assert_eq!(profile.check(), Ok(()));
                assert_eq!(read.beyond(&read), []);
                assert_eq!(manifest::read(input, syntax).map(|again| again.digest()), Ok(read.digest()));
                assert!(words::lines(&read).len() >= usize::from(!read.permissions.is_empty()));
                let _ = read.notes();
                let _ = Plan::new(&profile, &Ability::none(), &Place::default());
                digests.push(read.digest());
            }
        }
    }
    // JSON is YAML: who reads it as either reads the same.
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}
