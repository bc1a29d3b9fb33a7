//! `kairo audit`: records to be read, and proof that they are what was written.
//!
//! An export is verified here, with what is in the file and nothing else.

use crate::cli::args::audit::{Audit, AuditExport, AuditPrune, AuditQuery, AuditSubcommand, AuditVerify};
use crate::cli::context::{Context, Outcome, json_of, value_of, versioned};
use crate::cli::events::pattern;
use crate::cli::failure::Failure;
use crate::cli::gist::{Paint, Tone, cut, gist};
use crate::cli::moment::{Moment, now_ms};
use crate::cli::table::{bytes, visible};
use kairo_controlplane::audit::export::Verifier;
use kairo_controlplane::digest::{from_hex, hex};
use kairo_wire::codec::time::iso;
use kairo_wire::methods::audit::{
    self as wire, AuditCheckpointParams, AuditExportParams, AuditProblem, AuditPruneParams, AuditQueryParams,
    AuditRecord, AuditStatusParams, AuditStatusResult, AuditVerifyParams,
};
use serde_json::json;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

pub(crate) fn audit(context: &Context, args: &Audit) -> Outcome {
    match &args.command {
        AuditSubcommand::Query(args) => query(context, args),
        AuditSubcommand::Export(args) => export(context, args),
        AuditSubcommand::Verify(args) => verify(context, args),
        AuditSubcommand::Status(_) => {
            let found = context.client()?.call::<wire::AuditStatus>(&AuditStatusParams {})?;
            standing(context, &found)
        }
        AuditSubcommand::Checkpoint(_) => {
            let made = context.client()?.call::<wire::AuditCheckpoint>(&AuditCheckpointParams {})?;
            if context.json {
                context.object(json_of(&made)?)?;
            } else {
                let body = &made.checkpoint;
                context.text(&format!(
                    "record     {}\nhash       {}\nkey        {}\nsignature  {}\n",
                    body.n, body.hash, body.key, made.signature
                ))?;
            }
            Ok(0)
        }
        AuditSubcommand::Prune(args) => prune(context, args),
    }
}

/// A time that was typed; a place in the log is none.
fn time(flag: &str, moment: Option<Moment>) -> Result<Option<u64>, Failure> {
    let Some(moment) = moment else { return Ok(None) };
    match moment.time_ms(now_ms()) {
        Some(at) => Ok(Some(at)),
        None if moment == Moment::Start => Ok(None),
        None => Err(Failure::usage(format!("{flag} takes a time, such as 1h or 2026-11-29"))),
    }
}

fn query(context: &Context, args: &AuditQuery) -> Outcome {
    let mut params = AuditQueryParams {
        principal: args.principal.clone(),
        topic: args.topic.as_deref().map(pattern).transpose()?,
        from_ms: time("--since", args.since)?,
        to_ms: time("--until", args.until)?,
        intent_id: args.intent.clone(),
        target: args.target.clone(),
        grant: args.grant.clone(),
        ..AuditQueryParams::default()
    };
    let client = context.client()?;
    let (paint, width) = (Paint(context.colour()), context.width());
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        params.limit = Some(left.min(1_000) as u32);
        let page = client.call::<wire::AuditQuery>(&params)?;
        for record in &page.records {
            match context.json {
                true => writeln!(out, "{}", versioned(json_of(record)?))?,
                false => writeln!(out, "{}", line(record, paint, width)?)?,
            }
        }
        left -= left.min(page.records.len() as u64);
        params.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    out.flush()?;
    Ok(0)
}

/// `2026-11-29T10:00:00.000Z #17 skill:x kairo.security.denied method=process.kill`
fn line(record: &AuditRecord, paint: Paint, width: Option<usize>) -> Result<String, Failure> {
    let data = value_of(&record.data)?;
    let time = i64::try_from(record.time_ms).map_or_else(|_| record.time_ms.to_string(), iso);
    let head = format!("{time} #{}", record.n);
    let (who, topic) = (visible(&record.principal), visible(&record.topic));
    let why =
        record.intent_id.as_ref().map(|intent| format!(" intent={}", visible(intent))).unwrap_or_default();
    let taken = head.len() + who.chars().count() + topic.chars().count() + 3;
    let said = format!("{}{why}", gist(&data));
    let said = width.map_or(said.clone(), |width| cut(&said, width.saturating_sub(taken).max(8)));
    let topic = paint.tone(&topic, Tone::of(&topic, &data));
    Ok(format!("{} {who} {topic} {said}", paint.dim(&head)).trim_end().to_owned())
}

fn standing(context: &Context, found: &AuditStatusResult) -> Outcome {
    if context.json {
        context.object(json_of(found)?)?;
        return Ok(0);
    }
    let mut lines = vec![match found.first {
        Some(first) => format!("records      {first} to {}, {}", found.head.n, bytes(found.bytes)),
        None => format!("records      none; the last was {}", found.head.n),
    }];
    lines.push(format!("head         {}", found.head.hash));
    let last = found.last_checkpoint.as_ref().map_or(0, |last| last.checkpoint.n);
    lines.push(format!("signed       to {last}, in {} checkpoints", found.checkpoints));
    if let Some(anchor) = &found.anchor {
        lines.push(format!("dropped      to {}, whose checkpoint is kept", anchor.checkpoint.n));
    }
    lines.push(format!("public key   {}", found.public_key));
    context.text(&(lines.join("\n") + "\n"))?;
    Ok(0)
}

fn prune(context: &Context, args: &AuditPrune) -> Outcome {
    let Some(before_ms) = time("--before", Some(args.before))? else {
        return Err(Failure::usage("--before start: nothing lies before it"));
    };
    let found = context.client()?.call::<wire::AuditPrune>(&AuditPruneParams { before_ms })?;
    standing(context, &found)
}

fn export(context: &Context, args: &AuditExport) -> Outcome {
    let client = context.client()?;
    let mut out: Box<dyn Write> = match &args.output {
        // Who may read the audit may not be who may read the folder.
        Some(path) => Box::new(BufWriter::new(private(path)?)),
        None => Box::new(BufWriter::new(io::stdout().lock())),
    };
    let mut page = AuditExportParams::default();
    loop {
        let found = client.call::<wire::AuditExport>(&page)?;
        for line in &found.lines {
            writeln!(out, "{line}")?;
        }
        match found.next {
            Some(next) => page = next,
            None => break,
        }
    }
    out.flush()?;
    Ok(0)
}

fn private(path: &Path) -> Result<File, Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    Ok(File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?)
}

/// What came of a verification.
struct Verdict {
    records: u64,
    checkpoints: u64,
    signed_to: u64,
    key: Option<String>,
    problems: Vec<AuditProblem>,
}

fn verify(context: &Context, args: &AuditVerify) -> Outcome {
    let verdict = match &args.file {
        Some(file) => verify_file(file, args.key.as_deref())?,
        None => verify_kept(context)?,
    };
    let Verdict { records, checkpoints, signed_to, key, problems } = &verdict;
    let is_sound = problems.is_empty();
    if context.json {
        context.object(json!({
            "sound": is_sound, "records": records, "checkpoints": checkpoints, "signedTo": signed_to,
            "publicKey": key, "problems": json_of(problems)?,
        }))?;
    } else {
        let mut text = String::new();
        for AuditProblem { from, to, what } in problems {
            let which = if from == to { format!("record {from}") } else { format!("records {from} to {to}") };
            text.push_str(&format!("{which}: {}\n", visible(what)));
        }
        let verdict = if is_sound { "sound" } else { "NOT as it was written" };
        text.push_str(&format!(
            "{verdict}: {records} records, {checkpoints} checkpoints, signed to {signed_to}\n"
        ));
        text.extend(key.iter().map(|key| format!("signed with {key}\n")));
        context.text(&text)?;
    }
    Ok(if is_sound { 0 } else { 1 })
}

fn verify_file(file: &Path, key: Option<&str>) -> Result<Verdict, Failure> {
    let wrong = || Failure::usage("--key takes the public key: 64 hexadecimal digits");
    let key = key.map(|text| from_hex(text).ok_or_else(wrong)).transpose()?;
    let mut input: Box<dyn BufRead> = match file.as_os_str() == "-" {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(file)?)),
    };
    let mut verifier = Verifier::new(key);
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        // What is no text is no line of an export.
        verifier.line(std::str::from_utf8(text).unwrap_or_default());
        line.clear();
    }
    let (checker, key) = verifier.finish();
    Ok(Verdict {
        records: checker.records,
        checkpoints: checker.checkpoints,
        signed_to: checker.signed_to(),
        key: key.map(|key| hex(&key)),
        problems: checker.problems,
    })
}

fn verify_kept(context: &Context) -> Result<Verdict, Failure> {
    let client = context.client()?;
    let mut verdict = Verdict { records: 0, checkpoints: 0, signed_to: 0, key: None, problems: Vec::new() };
    let mut after = None;
    loop {
        let page = client.call::<wire::AuditVerify>(&AuditVerifyParams { after })?;
        verdict.records += page.records;
        verdict.checkpoints += page.checkpoints;
        verdict.signed_to = verdict.signed_to.max(page.signed_to);
        verdict.problems.extend(page.problems);
        after = page.next;
        if after.is_none() {
            return Ok(verdict);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::codec::raw::Raw;

    #[test]
    fn a_record_can_not_move_the_cursor() {
        let record = AuditRecord {
            n: 17,
            seq: 40,
            id: "x".to_owned(),
            time_ms: 1_000,
            topic: "a\x1b[2J".to_owned(),
            source: "kernel".to_owned(),
            principal: "skill:\n".to_owned(),
            intent_id: Some("\x1b".to_owned()),
            correlation_id: None,
            causation_id: None,
            tool_call_id: None,
            grant: None,
            data: Raw::of(&json!({"x": "\n"})).unwrap(),
        };
        let line = line(&record, Paint(false), None).unwrap();
        assert!(!line.contains('\x1b') && !line.contains('\n') && line.contains(" #17 "), "{line:?}");
    }

    #[test]
    fn a_place_in_the_log_is_no_time() {
        assert!(time("--since", Some(Moment::Seq(3))).is_err());
        assert_eq!(time("--since", Some(Moment::Time(3))).unwrap(), Some(3));
        assert_eq!(time("--since", Some(Moment::Start)).unwrap(), None);
    }
}
