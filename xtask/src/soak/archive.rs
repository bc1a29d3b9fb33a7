//! A tar of a source tree through a compressor, with a tap: what was compressed is what went by the tap, and is the tree.

use super::tools::{connect, equal, filtered, has, joined, output, same};
use super::{Seen, Site};
use crate::chaos::{Random, Wrong};
use crate::support::output::Output;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What there is of this house, from its top.
const TREES: [&str; 5] = ["docs", "wire/src", "dataplane/src", "controlplane/src", "tests/fixtures"];

pub(super) fn run(site: &Site<'_>, random: &mut Random) -> Result<Seen, Wrong> {
    let Some((folder, compressor)) = copied(site)? else {
        return Ok(Seen::Lacks("tar, or a source tree that can be read"));
    };
    let tree = folder.to_str().ok_or("a folder has a name")?;
    let mut bytes = 0;
    for round in 0..site.scale {
        let id = format!("archive{round}");
        bytes += packed(site, random, &id, tree, compressor).map_err(|wrong| format!("{id}: {wrong}"))?;
    }
    std::fs::remove_dir_all(&folder).map_err(|error| format!("the tree: {error}"))?;
    Ok(Seen::Bytes(bytes))
}

/// What is packed, where nobody changes it, and by what; none where that can't be.
pub(super) fn copied(site: &Site<'_>) -> Result<Option<(PathBuf, &'static str)>, Wrong> {
    if !has("tar") || TREES.iter().any(|part| std::fs::read_dir(site.tree.join(part)).is_err()) {
        return Ok(None);
    }
    let folder = site.folder.join("tree");
    copy(site.tree, &folder)?;
    Ok(Some((folder, if has("zstd") { "zstd" } else { "gzip" })))
}

/// Copies what is packed, so that nobody changes it meanwhile.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), Wrong> {
    for part in TREES {
        let target = to.join(part);
        std::fs::create_dir_all(&target).map_err(|error| format!("no folder: {error}"))?;
        let source = format!("{}/.", from.join(part).display());
        output(&["cp", "-r", &source, &target.display().to_string()], Stdio::null())?;
    }
    Ok(())
}

fn packed(
    site: &Site<'_>,
    random: &mut Random,
    id: &str,
    tree: &str,
    compressor: &str,
) -> Result<u64, Wrong> {
    let (mut tap, mut end, mut idle) = (connect(site.socket), connect(site.socket), connect(site.socket));
    let stages = json!([{"command": ["tar", "cf", "-", "-C", tree, "."]}, {"command": [compressor, "-c"]}]);
    let tapped = tap.subscribe(&format!("{id}.0"), json!({"stream": "stdout"}));
    let packed = end.subscribe(&format!("{id}.1"), json!({"stream": "stdout"}));
    // Somebody who looks and does not read, as often as not.
    if random.chance(1, 2) {
        idle.subscribe(&format!("{id}.0"), json!({"stream": "stdout", "policy": "drop_oldest"}));
    }
    let mut raw = connect(site.socket);
    raw.ok("pipeline.spawn", json!({"id": id, "stages": stages, "edges": [{"tap": true}]}));
    let (tapped, packed) = std::thread::scope(|scope| {
        let tapped = scope.spawn(|| Ok::<Output, Wrong>(tap.collect(&tapped, 1)));
        let packed = scope.spawn(|| Ok::<Output, Wrong>(end.collect(&packed, 1)));
        Ok::<_, Wrong>((joined("the tap", tapped)?.stdout, joined("the end", packed)?.stdout))
    })?;
    let ended = raw.ok("pipeline.wait", json!({"id": id, "timeoutMs": 30_000}));
    same("the exit code", &ended["exitCode"], &json!(0))?;
    let status = raw.ok("pipeline.status", json!({"id": id}));
    same("what is counted at the tap", &status["stages"][0]["output"]["bytes"], &json!(tapped.len()))?;
    same("what is counted behind it", &status["stages"][1]["input"]["bytes"], &json!(tapped.len()))?;
    equal("what was packed", &filtered(&[compressor, "-dc"], &packed)?, &tapped)?;
    let unpacked = tempfile::tempdir().map_err(|error| format!("no folder: {error}"))?;
    let to = unpacked.path().to_str().ok_or("a folder has a name")?;
    filtered(&["tar", "xf", "-", "-C", to], &tapped)?;
    output(&["diff", "-r", tree, to], Stdio::null()).map_err(|wrong| format!("the tree: {wrong}"))?;
    Ok(tapped.len() as u64)
}
