//! From the flags of `run` and `spawn` to what a spawn asks for.

use crate::cli::args::process::Program;
use crate::cli::failure::Failure;
use crate::config::environment;
use crate::config::raw::ByteSize;
use clap::ValueEnum;
use kairo_sandbox::receipt::Receipt;
use kairo_wire::codec::raw::Raw;
use kairo_wire::codec::text::OsText;
use kairo_wire::methods::options::{Limits, Rlimit, SpawnOptions};
use kairo_wire::methods::stream::Rate;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// `--durable`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum YesNo {
    Yes,
    No,
}

/// `--restart`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RestartChoice {
    Never,
    OnFailure,
    Always,
}

/// argv as it goes on the wire.
pub(crate) fn command(program: &Program) -> Result<Vec<OsText>, Failure> {
    let words = program.command.iter().cloned().map(|word| text(word, "the command"));
    words.collect()
}

fn text(word: OsString, what: &str) -> Result<OsText, Failure> {
    OsText::new(word.into_vec()).ok_or_else(|| Failure::usage(format!("{what} holds a NUL byte")))
}

/// What `run` and `spawn` have in common.
pub(crate) fn options(program: &Program) -> Result<SpawnOptions, Failure> {
    let (limits, rate) = limits(&program.limit)?;
    Ok(SpawnOptions {
        cwd: program.cwd.as_ref().map(|folder| text(folder.into(), "--cwd")).transpose()?,
        env: variables(&program.env)?,
        limits: (limits != Limits::default()).then_some(limits),
        rate,
        allow_weaker: program.allow_weaker,
        adapter: program.adapter.clone(),
        cpus: program.pin.as_ref().and_then(|pin| pin.cpus.clone()),
        reactor_cpu: program.pin.as_ref().and_then(|pin| pin.reactor),
        sandbox: program.sandbox.as_deref().map(profile).transpose()?,
        watch: program.sandbox.is_some(),
        program_digest: program.program_digest.clone(),
        accept_weaker_program: program.allow_weaker && program.program_digest.is_some(),
        ..SpawnOptions::default()
    })
}

/// A profile as it goes on the wire; what it says is the kernel's to judge.
fn profile(path: &Path) -> Result<Raw, Failure> {
    let failed = |why: String| Failure::new("E_PROFILE", format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let wish: serde_json::Value = match path.extension().is_some_and(|extension| extension == "json") {
        true => serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?,
        false => toml::from_str(&text).map_err(|error| failed(error.to_string()))?,
    };
    Raw::of(&wish).map_err(|error| failed(error.to_string()))
}

/// A receipt for people.
pub(crate) fn receipt(raw: &Raw) -> Result<String, Failure> {
    let receipt: Receipt = raw.decode().map_err(|error| Failure::new("E_PROFILE", error.to_string()))?;
    Ok(receipt.to_string())
}

/// `NAME=VALUE`, or `NAME` for the value it has here.
fn variables(given: &[String]) -> Result<BTreeMap<String, OsText>, Failure> {
    let mut all = BTreeMap::new();
    for one in given {
        let (name, value) = match one.split_once('=') {
            Some((name, value)) => (name, OsString::from(value)),
            None => (
                one.as_str(),
                environment::inherited(one).ok_or_else(|| {
                    Failure::usage(format!("--env {one}: there is no such variable here"))
                        .advise("write --env NAME=VALUE")
                })?,
            ),
        };
        if name.is_empty() {
            return Err(Failure::usage(format!("--env {one:?} has no name")).advise("write --env NAME=VALUE"));
        }
        all.insert(name.to_owned(), text(value, "--env")?);
    }
    Ok(all)
}

/// Every rlimit, and whether it is counted in bytes.
const RLIMITS: [(Rlimit, bool); 9] = [
    (Rlimit::As, true),
    (Rlimit::Core, true),
    (Rlimit::Cpu, false),
    (Rlimit::Data, true),
    (Rlimit::Fsize, true),
    (Rlimit::Memlock, true),
    (Rlimit::Nofile, false),
    (Rlimit::Nproc, false),
    (Rlimit::Stack, true),
];

const LIMITS_ADVICE: &str = "known are a rate such as 20M, or rate=20M,burst=1M, memory=512MiB, cpu=150 (percent of one core), pids=64, and the rlimits as, core, \
    cpu-seconds, data, fsize, memlock, nofile, nproc, stack";

fn limits(given: &[String]) -> Result<(Limits, Option<Rate>), Failure> {
    let (mut all, mut rate, mut burst) = (Limits::default(), None, None);
    for one in given.iter().flat_map(|given| given.split(',')) {
        let wrong = |why: &str| Failure::usage(format!("--limit {one}: {why}")).advise(LIMITS_ADVICE);
        // A size alone is the rate.
        let (name, value) = match one.split_once('=') {
            Some(pair) => pair,
            None if one.starts_with(|c: char| c.is_ascii_digit()) => ("rate", one),
            None => return Err(wrong("write NAME=VALUE")),
        };
        let count = || value.parse::<u64>().map_err(|_| wrong("the value is no whole number"));
        let bytes = || {
            ByteSize::parse(value)
                .map(|ByteSize(bytes)| bytes)
                .ok_or_else(|| wrong("the value is no size; write 64KiB, 512MiB or 2GiB"))
        };
        let above_0 = || bytes().and_then(|n| if n > 0 { Ok(n) } else { Err(wrong("it is at least 1")) });
        match name {
            "rate" => rate = Some(above_0()?),
            "burst" => burst = Some(above_0()?),
            "memory" => match bytes()? >> 20 {
                0 => return Err(wrong("memory is counted in MiB and must be at least one: write 512MiB")),
                mib => all.memory = Some(mib),
            },
            "cpu" => {
                let percent =
                    value.strip_suffix('%').unwrap_or(value).parse().ok().filter(|percent| *percent > 0);
                all.cpu = Some(percent.ok_or_else(|| wrong("the value is no percentage"))?);
            }
            "pids" => all.pids = Some(count()?),
            _ => {
                let wanted = if name == "cpu-seconds" { "cpu" } else { name };
                let known = RLIMITS.iter().find(|(rlimit, _)| rlimit.name() == wanted);
                let (rlimit, in_bytes) = known.ok_or_else(|| wrong("there is no such limit"))?;
                all.rlimits.insert(*rlimit, if *in_bytes { bytes()? } else { count()? });
            }
        }
    }
    match (rate, burst) {
        (None, Some(_)) => Err(Failure::usage("--limit: burst belongs to a rate").advise(LIMITS_ADVICE)),
        (rate, burst) => Ok((all, rate.map(|bytes_per_second| Rate { bytes_per_second, burst }))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(given: &[&str]) -> Result<Limits, String> {
        let given: Vec<String> = given.iter().map(|one| (*one).to_owned()).collect();
        limits(&given).map(|(limits, _)| limits).map_err(|failure| failure.text(false).unwrap_or_default())
    }

    #[test]
    fn limits_are_read_in_the_units_people_use() {
        let found =
            parsed(&["memory=2GiB", "cpu=150%", "pids=64", "nofile=1024", "stack=8MiB", "cpu-seconds=5"]);
        let found = found.unwrap();
        assert_eq!((found.memory, found.cpu, found.pids), (Some(2_048), Some(150), Some(64)));
        assert_eq!(found.rlimits[&Rlimit::Nofile], 1_024);
        assert_eq!(found.rlimits[&Rlimit::Stack], 8 << 20);
        assert_eq!(found.rlimits[&Rlimit::Cpu], 5);
    }

    #[test]
    fn a_limit_that_means_nothing_is_named_with_what_is_known() {
        for wrong in
            ["memory", "memory=lots", "memory=512", "cpu=fast", "cpu=0", "pids=-1", "files=3", "nofile=1KiB"]
        {
            let error = parsed(&[wrong]).unwrap_err();
            assert!(error.contains(wrong) && error.contains("known are"), "{error}");
        }
    }

    #[test]
    fn a_size_alone_is_the_rate_of_output() {
        let rate = |given: &str| limits(&[given.to_owned()]).map(|(_, rate)| rate);
        let (mib, burst) = (20 << 20, Some(1 << 20));
        assert_eq!(rate("20M").ok(), Some(Some(Rate { bytes_per_second: mib, burst: None })));
        assert_eq!(rate("rate=20MiB,burst=1M").ok(), Some(Some(Rate { bytes_per_second: mib, burst })));
        assert_eq!(rate("burst=1M,20M,pids=3").ok(), Some(Some(Rate { bytes_per_second: mib, burst })));
        for wrong in ["0", "20MB", "rate=fast", "burst=1M", "20M,burst=0", "20M,"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_are_set_or_passed_on() {
        let found = variables(&["A=1=2".to_owned(), "B=".to_owned()]).unwrap();
        assert_eq!((found["A"].as_bytes(), found["B"].as_bytes()), (&b"1=2"[..], &b""[..]));
        assert!(variables(&["=x".to_owned()]).is_err());
        assert!(variables(&["NO_SUCH_VARIABLE_ANYWHERE".to_owned()]).is_err());
    }
}
