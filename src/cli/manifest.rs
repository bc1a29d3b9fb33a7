//! `kairo manifest`: what a skill's manifest would allow, in words, before anybody approves it.
//!
//! Reads files and asks the machine; what a manifest means is the sandbox crate's to say.

use crate::cli::context::{Context, Outcome, json_of};
use crate::cli::failure::Failure;
use crate::cli::table::visible;
use clap::{Args, Subcommand};
use kairo_sandbox::ability::Ability;
use kairo_sandbox::manifest::refusal::Refusal;
use kairo_sandbox::manifest::syntax::Syntax;
use kairo_sandbox::manifest::tree::BYTES_MAX;
use kairo_sandbox::manifest::words::{self, Group, Line};
use kairo_sandbox::manifest::{self, Manifest};
use kairo_sandbox::plan::{Place, Plan};
use kairo_sandbox::protection::Protection;
use kairo_sandbox::receipt::Standing;
use serde::Serialize;
use serde_json::json;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Look at a skill's manifest
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo manifest check skill.yaml\n  kairo manifest check skill.yaml --against approved.yaml\n  \
    kairo manifest schema > manifest.schema.json"
)]
pub(crate) struct ManifestCommand {
    #[command(subcommand)]
    pub(crate) command: ManifestSubcommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ManifestSubcommand {
    Check(Check),
    Schema(Schema),
}

/// Say what a manifest would allow, what of it can't be enforced here, and what is new
///
/// Takes our form and the original's (SkillManifestV2), as JSON, YAML or TOML. Exit codes: 0 in order; 1 the manifest is
/// refused, or asks for protections that this machine can't enforce and that it doesn't accept weaker; 125 it can't be read.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo manifest check skill.yaml\n  kairo manifest check skill.yaml --against approved.yaml\n  \
    kairo manifest check --json skill.yaml | jq .profile"
)]
pub(crate) struct Check {
    /// The manifest: .json, .yaml, .yml or .toml
    pub(crate) file: PathBuf,
    /// An older version; what it didn't allow is listed
    #[arg(long, value_name = "OLDER")]
    pub(crate) against: Option<PathBuf>,
}

/// Print the JSON Schema of our form of manifest
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo manifest schema > manifest.schema.json")]
pub(crate) struct Schema {}

/// A manifest that is looked at and found wanting.
const REFUSED: u8 = 1;

pub(crate) fn manifest(context: &Context, args: &ManifestCommand) -> Outcome {
    match &args.command {
        ManifestSubcommand::Check(args) => check(context, args),
        ManifestSubcommand::Schema(_) => schema(context),
    }
}

fn schema(context: &Context) -> Outcome {
    let schema = manifest::schema();
    if context.json {
        context.object(json!({ "schema": schema }))?;
        return Ok(0);
    }
    let text =
        serde_json::to_string_pretty(&schema).map_err(|error| Failure::new("E_SHAPE", error.to_string()))?;
    context.line(&text)?;
    Ok(0)
}

/// A protection that wouldn't be in force as asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Lack {
    #[serde(skip_serializing_if = "Option::is_none")]
    protection: Option<Protection>,
    asked: String,
    reason: String,
    /// The manifest accepts that by name.
    pub(crate) accepted: bool,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.protection.map_or(String::new(), |protection| format!("{protection} "));
        write!(f, "{what}({}): {}", visible(&self.asked), visible(&self.reason))
    }
}

/// What a manifest reaches that an older one didn't.
#[derive(Debug)]
pub(crate) struct New {
    /// In words.
    pub(crate) lines: Vec<String>,
    /// Since what.
    pub(crate) since: String,
}

fn check(context: &Context, args: &Check) -> Outcome {
    let manifest = read(&args.file)?;
    let older = args.against.as_deref().map(read).transpose()?;
    let new = older.as_ref().map(|older| manifest.beyond(older));
    let folder = std::env::current_dir().ok().map(|folder| folder.display().to_string());
    let lacks = lacks(context, &manifest, folder);
    let exit = if lacks.iter().all(|lack| lack.accepted) { 0 } else { REFUSED };
    if context.json {
        context.object(json!({
            "name": manifest.identity.name,
            "version": manifest.identity.version,
            "digest": manifest.digest(),
            "allows": json_of(&words::lines(&manifest))?,
            "notes": manifest.notes(),
            "unenforceable": json_of(&lacks)?,
            "new": json_of(&new)?,
            "profile": json_of(&manifest.profile())?,
        }))?;
        return Ok(exit);
    }
    let new = older
        .zip(new)
        .map(|(older, lines)| New { lines: lines.iter().map(told).collect(), since: older.identity.version });
    let identity = &manifest.identity;
    let mut text = format!("{} {}\n", visible(&identity.name), visible(&identity.version));
    text.push_str(&page(&manifest, &lacks, new.as_ref()));
    context.text(&text)?;
    Ok(exit)
}

/// Reads a file.
pub(crate) fn read(file: &Path) -> Result<Manifest, Failure> {
    load(file, BYTES_MAX).map(|loaded| loaded.manifest)
}

/// A manifest and how it is written.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) manifest: Manifest,
    pub(crate) text: String,
    pub(crate) syntax: Syntax,
}

/// Reads a file of at most so many bytes.
pub(crate) fn load(file: &Path, bytes_max: usize) -> Result<Loaded, Failure> {
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let shown = visible(&file.display().to_string());
    let syntax = Syntax::of_extension(extension).ok_or_else(|| {
        Failure::usage(format!("{shown}: a manifest's name ends in .json, .yaml, .yml or .toml"))
    })?;
    let unreadable = |error: std::io::Error| Failure::new("E_IO", format!("{shown}: {error}"));
    let mut bytes = Vec::new();
    // One more than is taken, so that what is longer is seen to be.
    let open = File::open(file).map_err(unreadable)?;
    open.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > bytes_max && bytes_max < BYTES_MAX {
        let why = format!("{shown}: to be decided about, a manifest has at most {} KiB", bytes_max >> 10);
        return Err(Failure::new("E_MANIFEST", why).ending_with(REFUSED));
    }
    let manifest = manifest::read(&bytes, syntax).map_err(|refusal: Refusal| {
        Failure::new("E_MANIFEST", format!("{shown}: {}", visible(&refusal.to_string())))
            .advise("docs/MANIFEST.md tells what may stand there; `kairo manifest schema` for programs")
            .detail(json!({ "field": refusal.field, "reason": refusal.reason, "why": refusal.why }))
            .ending_with(REFUSED)
    })?;
    // What isn't UTF-8 was refused.
    Ok(Loaded { manifest, text: String::from_utf8_lossy(&bytes).into_owned(), syntax })
}

/// What this machine wouldn't enforce: planned as if everything weaker were accepted, then held against what is.
/// `folder` is where it would work.
pub(crate) fn lacks(context: &Context, manifest: &Manifest, folder: Option<String>) -> Vec<Lack> {
    let profile = manifest.profile();
    let mut lenient = profile.clone();
    lenient.accept_weaker.extend(Protection::ALL);
    let place =
        Place { uid: rustix::process::geteuid().as_raw(), home: context.environment.text("HOME"), folder };
    let plan = match Plan::new(&lenient, &Ability::probe(), &place) {
        Ok(plan) => plan,
        Err(refusal) => {
            let (asked, reason) = ("a place to run in".to_owned(), refusal.to_string());
            return vec![Lack { protection: None, asked, reason, accepted: false }];
        }
    };
    let weaker = plan.receipt.entries.into_iter().filter_map(|entry| match entry.standing {
        Standing::Weaker | Standing::Absent => Some(Lack {
            accepted: profile.accepts_weaker(entry.protection),
            protection: Some(entry.protection),
            asked: entry.asked,
            reason: entry.reason.unwrap_or_default(),
        }),
        Standing::InForce | Standing::NotAsked => None,
    });
    weaker.collect()
}

/// Everything but its name, for a person.
pub(crate) fn page(manifest: &Manifest, lacks: &[Lack], new: Option<&New>) -> String {
    let mut page = String::new();
    // Writing to a String does not fail.
    if let Some(description) = &manifest.identity.description {
        let _ = writeln!(page, "{}", visible(description));
    }
    let _ = writeln!(page, "digest {}\n\nit would be allowed to", manifest.digest());
    let lines = words::lines(manifest);
    for group in Group::ALL {
        let of_group: Vec<&Line> = lines.iter().filter(|line| line.group == group).collect();
        if of_group.is_empty() {
            let _ = writeln!(page, "  {}: {}", group.name(), nothing(group));
            continue;
        }
        let _ = writeln!(page, "  {}", group.name());
        of_group.into_iter().for_each(|line| tell(&mut page, &told(line)));
    }
    for note in manifest.notes() {
        let _ = writeln!(page, "note: {note}");
    }
    match new {
        Some(New { lines, since }) if lines.is_empty() => {
            let _ = writeln!(page, "\nit reaches nothing new since {}", visible(since));
        }
        Some(New { lines, since }) => {
            let _ = writeln!(page, "\nit newly reaches, since {}", visible(since));
            lines.iter().for_each(|line| tell(&mut page, line));
        }
        None => {}
    }
    if lacks.is_empty() {
        page.push_str("\nthis machine enforces all of it\n");
        return page;
    }
    page.push_str("\nthis machine can't enforce\n");
    for lack in lacks {
        let then = if lack.accepted { "accepted weaker" } else { "so it would be refused" };
        let _ = writeln!(page, "    {lack}; {then}");
    }
    page
}

/// What a group without a line means.
fn nothing(group: Group) -> &'static str {
    match group {
        Group::Program => "not named",
        Group::Limits => "none of its own",
        Group::Environment => "the usual variables",
        Group::Devices => "the harmless ones",
        Group::Processes => "signals to what it has started itself",
        Group::Protections => "all, as far as is asked for",
        Group::Files | Group::Network | Group::Calls => "none",
    }
}

/// A line with what it is for.
fn told(line: &Line) -> String {
    match &line.purpose {
        Some(purpose) => format!("{} — {purpose}", line.text),
        None => line.text.clone(),
    }
}

fn tell(page: &mut String, line: &str) {
    let _ = writeln!(page, "    {}", visible(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(name: &str) -> Result<Manifest, Failure> {
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/manifests").join(name))
    }

    #[test]
    fn a_page_says_what_is_allowed_what_is_new_and_what_would_not_hold() {
        let (older, newer) = (example("ffmpeg.yaml").unwrap(), example("git-helper.toml").unwrap());
        let lack = |accepted| Lack {
            protection: Some(Protection::Pids),
            asked: "64".to_owned(),
            reason: "no cgroup".to_owned(),
            accepted,
        };
        let new = |newer: &Manifest| New {
            lines: newer.beyond(&older).iter().map(told).collect(),
            since: "1.0.0".to_owned(),
        };
        let text = page(&newer, &[lack(false), lack(true)], Some(&new(&newer)));
        for said in [
            &format!("digest {}\n", newer.digest()),
            "    connect to git.example.org on ports 443 — fetching\n",
            "  calls: none\n",
            "it newly reaches, since 1.0.0\n",
            "    delete in ./ (its working folder) — the repository\n",
            "    pids (64): no cgroup; so it would be refused\n",
            "    pids (64): no cgroup; accepted weaker\n",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
        let text = page(&older, &[], Some(&new(&older)));
        assert!(text.contains("it reaches nothing new since 1.0.0") && text.contains("enforces all of it"));
    }

    #[test]
    fn what_is_refused_ends_otherwise_than_what_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let with = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            read(&file).unwrap_err()
        };
        let failure =
            with("x.yaml", "manifest: 1\nname: x\nversion: '1'\npermissions: {files: [{path: x}]}\n");
        assert_eq!(failure.exit(), 1);
        assert!(failure.text(false).unwrap().contains("permissions.files[0].purpose: it has to be there"));
        let told: serde_json::Value = serde_json::from_str(&failure.text(true).unwrap()).unwrap();
        assert_eq!(told["error"]["details"]["field"], "permissions.files[0].purpose");
        assert_eq!(told["error"]["details"]["reason"], "missing");
        assert_eq!(with("x.txt", "").exit(), 125);
        assert_eq!(read(&folder.path().join("absent.json")).unwrap_err().exit(), 125);
        assert_eq!(read(&folder.path().join("absent.json/x.yaml")).unwrap_err().exit(), 125);
    }
}
