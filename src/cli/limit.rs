//! `kairo limit`: how fast a running process may write, and how much of it is kept.

use crate::cli::args::process::{Limit, StreamChoice};
use crate::cli::context::{Context, Outcome, accompanied, json_of, process_id};
use crate::cli::failure::Failure;
use crate::cli::table::bytes;
use crate::config::raw::ByteSize;
use kairo_wire::methods::options::{HistoryOption, WhenUnread};
use kairo_wire::methods::stream::{self, ConfigureParams, Rate, Selector, StreamSetting};

pub(crate) fn limit(context: &Context, args: &Limit) -> Outcome {
    let rate = match args.rate.as_deref() {
        None if args.burst.is_some() => {
            return Err(
                Failure::usage("--burst belongs to a rate").advise("write kairo limit ID 20M --burst 1M")
            );
        }
        None => None,
        Some("none") => Some(Rate::default()),
        Some(text) => {
            let burst = args.burst.as_deref().map(|text| size(text, "--burst")).transpose()?;
            Some(Rate { bytes_per_second: size(text, "the rate")?, burst })
        }
    };
    let kept = |text: &Option<String>, flag: &str| text.as_deref().map(|text| kept(text, flag)).transpose();
    let (head_bytes, tail_bytes) = (kept(&args.head, "--head")?, kept(&args.tail, "--tail")?);
    let history = (head_bytes.is_some() || tail_bytes.is_some())
        .then_some(HistoryOption::Sizes { head_bytes, tail_bytes });
    let params = ConfigureParams {
        id: process_id(&args.id)?,
        stream: match args.stream {
            StreamChoice::Stdout => Selector::Stdout,
            StreamChoice::Stderr => Selector::Stderr,
            StreamChoice::Both => Selector::Both,
        },
        rate,
        history,
        when_unread: args.block_unread.map(|block| if block { WhenUnread::Block } else { WhenUnread::Drop }),
    };
    let now = context.client()?.call_with::<stream::Configure>(&params, &accompanied(&args.story))?;
    if context.json {
        context.object(json_of(&now)?)?;
        return Ok(0);
    }
    for setting in &now.streams {
        context.line(&sentence(setting))?;
    }
    Ok(0)
}

fn sentence(setting: &StreamSetting) -> String {
    let rate = setting.rate.map_or("no limit".to_owned(), told);
    let (head, tail) = (setting.history_head_bytes, setting.history_tail_bytes);
    let name = setting.stream.word();
    format!("{name:<8}{rate}, keeps {} of head and {} of tail", bytes(head.into()), bytes(tail.into()))
}

/// `20 MiB/s, bursts of 2.0 MiB`
pub(crate) fn told(rate: Rate) -> String {
    let burst = rate.burst.map(|burst| format!(", bursts of {}", bytes(burst))).unwrap_or_default();
    format!("{}/s{burst}", bytes(rate.bytes_per_second))
}

fn size(text: &str, what: &str) -> Result<u64, Failure> {
    match ByteSize::parse(text) {
        Some(ByteSize(bytes)) if bytes > 0 => Ok(bytes),
        Some(_) | None => Err(Failure::usage(format!("{what}: {text:?} is no size above 0"))
            .advise("write 500k, 20M or 1GiB (powers of 1024), or none for no limit")),
    }
}

fn kept(text: &str, flag: &str) -> Result<u32, Failure> {
    let parsed = ByteSize::parse(text).and_then(|ByteSize(bytes)| u32::try_from(bytes).ok());
    parsed.ok_or_else(|| {
        Failure::usage(format!("{flag}: {text:?} is no size that can be kept")).advise("write 64KiB or 8MiB")
    })
}
