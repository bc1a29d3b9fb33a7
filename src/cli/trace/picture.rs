//! A story's trees as lines: box lines for who caused whom, times from cause to effect, colours.

use crate::cli::context::Context;
use crate::cli::gist::{Paint, Tone, brief, cut, span};
use crate::cli::table::visible;
use crate::cli::trace::Told;
use crate::cli::trace::tree::{Row, Took, Tree};

/// Levels that are indented; deeper ones stand at the last and tell how deep they are, so that a long chain is a long
/// picture and not a large one.
const LEVELS_SHOWN: usize = 24;

/// How a story is drawn.
#[derive(Debug)]
pub(crate) struct Picture<'s> {
    events: &'s [Told],
    tree: &'s Tree,
    /// What the user asked for is marked.
    named: Option<&'s str>,
    paint: Paint,
    width: Option<usize>,
}

impl<'s> Picture<'s> {
    pub(crate) fn new(
        context: &Context,
        events: &'s [Told],
        tree: &'s Tree,
        named: Option<&'s str>,
    ) -> Picture<'s> {
        Picture { events, tree, named, paint: Paint(context.colour()), width: context.width() }
    }

    /// The line above: which story, how many events, how long.
    pub(crate) fn title(&self, story: &str) -> String {
        let (first, last) = (self.events.first(), self.events.last());
        let length =
            last.map_or(0, |last| last.time_ms.saturating_sub(first.map_or(0, |first| first.time_ms)));
        let begun = first.and_then(|first| first.event.time.as_deref()).unwrap_or("-");
        let count = self.events.len();
        let rest =
            format!("{count} event{} in {}, from {begun}", if count == 1 { "" } else { "s" }, span(length));
        format!("{}  {}", self.paint.tone(&visible(story), Tone::Plain), self.paint.dim(&visible(&rest)))
    }

    /// One event or group.
    pub(crate) fn line(&self, row: &Row<'_>) -> String {
        let told = &self.events[row.at];
        let prefix = indentation(row.trail);
        let topic = visible(&told.event.topic);
        let number = row.group.map(|group| format!(" × {}", thousands(group.count))).unwrap_or_default();
        let times = self.times(row);
        let mark = if self.is_named(row) { "  ◀" } else { "" };
        let taken = prefix.chars().count()
            + topic.chars().count()
            + number.chars().count()
            + times.chars().count()
            + mark.len();
        // Of many the last tells how far it came.
        let speaks = row.group.map_or(told, |group| &self.events[group.last]);
        let said = brief(&speaks.payload);
        let said = match self.width {
            Some(width) => cut(&said, width.saturating_sub(taken + 3).max(8)),
            None => said,
        };
        let said = if said.is_empty() { said } else { format!(" {said}") };
        let tone = Tone::of(&told.event.topic, &speaks.payload);
        let (prefix, times) = (self.paint.dim(&prefix), self.paint.dim(&times));
        format!("{prefix}{}{number}{said}{times}{mark}", self.paint.tone(&topic, tone))
    }

    /// `  +12ms  took 3.2s`, or of a group when the first and the last came.
    fn times(&self, row: &Row<'_>) -> String {
        let at = |place: usize| self.events[place].time_ms;
        let begin = row.parent.or_else(|| (!self.events.is_empty()).then_some(0)).map_or(0, at);
        let since = |place: usize| format!("+{}", span(at(place).saturating_sub(begin)));
        let when = match row.group {
            Some(group) => format!("  {} … {}", since(row.at), since(group.last)),
            None if row.parent.is_none() && row.at == 0 => String::new(),
            None => format!("  {}", since(row.at)),
        };
        let took = match self.tree.took(row.at) {
            Some(Took::Ms(took)) if row.group.is_none() => format!("  took {}", span(took)),
            Some(Took::Unended) if row.group.is_none() => "  not over".to_owned(),
            _ => String::new(),
        };
        when + &took
    }

    fn is_named(&self, row: &Row<'_>) -> bool {
        row.group.is_none() && self.named.is_some() && self.events[row.at].event.id.as_deref() == self.named
    }
}

/// `│  └─ `
fn indentation(trail: &[bool]) -> String {
    let Some((last, above)) = trail.split_last() else { return String::new() };
    let mut prefix = String::new();
    for over in above.iter().take(LEVELS_SHOWN - 1) {
        prefix.push_str(if *over { "   " } else { "│  " });
    }
    if trail.len() > LEVELS_SHOWN {
        prefix.push_str(&format!("⋯{} ", trail.len()));
    }
    prefix.push_str(if *last { "└─ " } else { "├─ " });
    prefix
}

/// `1,234`
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::trace::deed;
    use kairo_client::BusEvent;
    use serde_json::{Value, json};
    use std::convert::Infallible;

    fn told(id: &str, cause: Option<&str>, topic: &str, time_ms: u64, payload: Value) -> Told {
        let event = BusEvent {
            id: Some(id.into()),
            causation_id: cause.map(Into::into),
            topic: topic.into(),
            time: Some("2026-11-29T10:00:00.000Z".into()),
            ..BusEvent::default()
        };
        Told { event, payload, time_ms }
    }

    fn drawn(events: &[Told], named: Option<&str>, width: Option<usize>) -> String {
        let tree = Tree::new(events.iter().map(deed).collect());
        let picture = Picture { events, tree: &tree, named, paint: Paint(false), width };
        let mut lines = vec![picture.title("c")];
        let walked: Result<(), Infallible> = tree.walk(false, |row| {
            lines.push(picture.line(row));
            Ok(())
        });
        walked.unwrap();
        lines.join("\n")
    }

    fn story() -> Vec<Told> {
        let session = json!({"id": "x", "session": "s"});
        let mut events = vec![
            told("a", None, "kairo.kernel.called", 1_000, json!({"method": "process.spawn"})),
            told("b", Some("a"), "kairo.process.spawned", 1_012, session),
        ];
        events.extend((1..=1_234).map(|n| {
            told(&format!("p{n}"), Some("b"), "kairo.process.progress", 1_012 + n, json!({"percent": n}))
        }));
        events.push(told(
            "d",
            Some("b"),
            "kairo.security.denied",
            3_000,
            json!({"method": "device.open\x1b"}),
        ));
        events.push(told("e", Some("b"), "kairo.process.exited", 4_212, json!({"session": "s", "code": 1})));
        events
    }

    #[test]
    fn a_story_is_a_tree_with_times_and_floods_are_counted() {
        let expected = "c  1238 events in 3.2s, from 2026-11-29T10:00:00.000Z\n\
            kairo.kernel.called method=process.spawn\n\
            └─ kairo.process.spawned id=x  +12ms  took 3.2s\n   \
               ├─ kairo.process.progress × 1,234 percent=1234  +1ms … +1.2s\n   \
               ├─ kairo.security.denied method=device.open\\u{1b}  +1.9s  ◀\n   \
               └─ kairo.process.exited code=1  +3.2s";
        assert_eq!(drawn(&story(), Some("d"), None), expected);
    }

    #[test]
    fn lines_fit_a_terminal_and_deep_ones_do_not_run_out_of_it() {
        for line in drawn(&story(), None, Some(60)).lines().skip(1) {
            assert!(line.chars().count() <= 76, "{line}");
        }
        let deep: Vec<Told> = (0..1_000)
            .map(|n: u64| {
                told(&n.to_string(), n.checked_sub(1).map(|n| n.to_string()).as_deref(), "t", n, json!(null))
            })
            .collect();
        let drawn = drawn(&deep, None, None);
        assert!(drawn.lines().all(|line| line.chars().count() < 120));
        assert!(drawn.ends_with("⋯999 └─ t  +1ms"), "{}", drawn.lines().last().unwrap());
    }

    #[test]
    fn numbers_are_read_in_threes() {
        let cases = [(7, "7"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(thousands(number), text);
        }
    }
}
