//! YAML, event by event.
//!
//! Plain scalars are what the core schema of YAML 1.2 says, in its plainest spelling: `true`, `false`, decimal integers
//! without leading zeros and numbers with a fraction or an exponent; everything else is a text (`no`, `0x1f`, `1_000`).
//! Anchors, aliases, tags, merge keys, several documents and keys that are no texts are refused: they make a short file long, or
//! one that reads differently elsewhere.

use super::refusal::{Reason, Refusal, quoted};
use super::syntax::no_value;
use super::tree::{self, Bounds, Trail, Tree};
use saphyr_parser::{BufferedInput, Event, Parser, ScalarStyle, Span};
use std::cell::Cell;
use std::collections::HashSet;

/// How far the scanner may read beyond what it has told, characters. It keeps a `[` or `{` to its end, some 200 bytes for
/// each of its own, before it tells the beginning.
const AHEAD_CHARS_MAX: usize = 1 << 18;

/// The tree of a text.
pub(super) fn parse(text: &str) -> Result<Tree, Refusal> {
    let left = Cell::new(AHEAD_CHARS_MAX);
    let mut chars = text.chars();
    // None left is the end to the scanner, and to us the reason for whatever it makes of that.
    let source = std::iter::from_fn(|| {
        left.set(left.get().checked_sub(1)?);
        chars.next()
    });
    let mut reader = Reader { events: Parser::new_from_iter(source), left: &left, bounds: Bounds::default() };
    let top = &Trail::Top;
    loop {
        match reader.next(top)? {
            Event::StreamStart | Event::DocumentStart(_) => {}
            Event::StreamEnd => return Err(top.refuse(Reason::Syntax, "there is nothing in it")),
            event => {
                let tree = reader.node(event, top, 0)?;
                return reader.end().map(|()| tree);
            }
        }
    }
}

struct Reader<'a, I: Iterator<Item = char>> {
    events: Parser<'a, BufferedInput<I>>,
    left: &'a Cell<usize>,
    bounds: Bounds,
}

impl<'a, I: Iterator<Item = char>> Reader<'a, I> {
    fn next(&mut self, trail: &Trail<'_>) -> Result<Event<'a>, Refusal> {
        loop {
            let found = self.events.next_event();
            if self.left.replace(AHEAD_CHARS_MAX) == 0 {
                let why = format!(
                    "a piece of more than {AHEAD_CHARS_MAX} characters: write it in lines, without brackets"
                );
                return Err(trail.refuse(Reason::Bound, why));
            }
            let (event, _): (Event<'a>, Span) = match found {
                Some(Ok(found)) => found,
                Some(Err(error)) => {
                    let (line, column) = (error.marker().line(), error.marker().col() + 1);
                    let why = format!("line {line}, column {column}: {}", quoted(error.info()));
                    return Err(trail.refuse(Reason::Syntax, why));
                }
                None => return Err(trail.refuse(Reason::Syntax, "it ends too early")),
            };
            if event != Event::Nothing {
                return Ok(event);
            }
        }
    }

    /// What may follow the one document: nothing.
    fn end(&mut self) -> Result<(), Refusal> {
        loop {
            match self.next(&Trail::Top)? {
                Event::DocumentEnd => {}
                Event::StreamEnd => return Ok(()),
                _ => return Err(Trail::Top.refuse(Reason::Syntax, "more than one document")),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, trail: &Trail<'_>, depth: usize) -> Result<Tree, Refusal> {
        self.bounds.node(depth, trail)?;
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            Event::Alias(_) => (1, false),
            _ => return Err(trail.refuse(Reason::Syntax, "a value belongs here")),
        };
        if anchor != 0 {
            return Err(trail.refuse(Reason::Syntax, "anchors and aliases are not taken: write it out"));
        }
        if tag {
            return Err(trail.refuse(Reason::Syntax, "tags are not taken"));
        }
        match event {
            Event::Scalar(text, style, ..) => scalar(&text, style, trail),
            Event::SequenceStart(..) => self.list(trail, depth),
            _ => self.map(trail, depth),
        }
    }

    fn list(&mut self, trail: &Trail<'_>, depth: usize) -> Result<Tree, Refusal> {
        let mut list = Vec::new();
        loop {
            let here = Trail::Place(trail, list.len());
            match self.next(&here)? {
                Event::SequenceEnd => return Ok(Tree::List(list)),
                event => {
                    self.bounds.entry(list.len(), trail)?;
                    let value = self.node(event, &here, depth + 1)?;
                    list.push(value);
                }
            }
        }
    }

    fn map(&mut self, trail: &Trail<'_>, depth: usize) -> Result<Tree, Refusal> {
        let (mut map, mut seen) = (Vec::new(), HashSet::new());
        loop {
            let key = match self.next(trail)? {
                Event::MappingEnd => return Ok(Tree::Map(map)),
                Event::Scalar(key, style, 0, None) if style != ScalarStyle::Plain || key != "<<" => key,
                Event::Scalar(_, _, 0, None) => {
                    return Err(trail.refuse(Reason::Syntax, "merge keys are not taken: write it out"));
                }
                _ => {
                    return Err(trail.refuse(Reason::Syntax, "a key is a text, without anchor and tag"));
                }
            };
            self.bounds.key(&key, &map, &mut seen, trail)?;
            let here = Trail::Key(trail, &key);
            let event = self.next(&here)?;
            let value = self.node(event, &here, depth + 1)?;
            map.push((key.into_owned(), value));
        }
    }
}

fn scalar(text: &str, style: ScalarStyle, trail: &Trail<'_>) -> Result<Tree, Refusal> {
    if style != ScalarStyle::Plain {
        return tree::text(text, trail);
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Err(no_value(trail)),
        "true" | "True" | "TRUE" => return Ok(Tree::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Tree::Bool(false)),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if decimal && (digits == "0" || !digits.starts_with('0')) {
        let too_large = |_| trail.refuse(Reason::Type, "it is larger than any number here");
        return text.parse().map(Tree::Integer).map_err(too_large);
    }
    let starts = digits.starts_with(|c: char| c.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(number) if starts && !decimal => Ok(Tree::Float(number)),
        _ => tree::text(text, trail),
    }
}
