//! What a declaration says, read strictly: which program, where it reports, in which form, and what the words mean.
//!
//! Every file has the same shape, `[[adapter]]` any number of times, ours and the user's alike. What reads well is judged
//! here too; an error names file, line and field. The invariant: a [`Declaration`] that exists can be parsed by without
//! asking anything further: its patterns are compiled, and every word it takes comes from somewhere.

use crate::config::raw::{self, line_at};
use crate::config::{ConfigError, Origin};
use regex::bytes::{Regex, RegexBuilder};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use toml::Spanned;

/// The word in an argument that stands for the side file.
pub(crate) const SIDE: &str = "{side}";
/// What asks for the adapter that suits the program.
pub(crate) const AUTO: &str = "auto";
const NAME_BYTES_MAX: usize = 64;
const LIST_MAX: usize = 16;
const PATTERN_BYTES_MAX: usize = 1_024;
/// Bytes of a compiled pattern; `\w{500}` and its like are refused, not compiled.
const PATTERN_SIZE_MAX: usize = 1 << 20;
const RATE_DEFAULT: u32 = 4;

/// Where a program says how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    Stdout,
    Stderr,
    /// A file that is named to it in its arguments or environment.
    Side,
}

/// How it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// `key=value`, one a line; a certain key ends the report.
    KeyValue,
    /// Lines for people, of which patterns know some.
    Regex,
    /// An object a line.
    JsonLines,
}

/// The word of a report that a field is taken from: `"speed"`, or `{ from = "out_time_us", scale = 0.000001 }`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Take {
    pub(crate) from: String,
    pub(crate) scale: f64,
}

impl Take {
    /// A fraction is divided by, not multiplied with: 401000 µs are 0.401 s and not 0.40099999999999997.
    pub(crate) fn scaled(&self, number: f64) -> f64 {
        if self.scale < 1.0 { number / (1.0 / self.scale) } else { number * self.scale }
    }
}

/// Where each field of the normalized event comes from. Times are in seconds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fields {
    pub(crate) done: Option<Take>,
    pub(crate) total: Option<Take>,
    pub(crate) unit: Option<Take>,
    pub(crate) rate: Option<Take>,
    pub(crate) eta: Option<Take>,
    pub(crate) percent: Option<Take>,
}

/// A pattern whose groups stay true for all reports.
#[derive(Clone, Debug)]
pub(crate) struct Hint {
    pub(crate) source: Source,
    pub(crate) pattern: Regex,
    pub(crate) fields: Fields,
}

/// An adapter.
#[derive(Clone, Debug)]
pub(crate) struct Declaration {
    pub(crate) name: String,
    /// Names of programs it suits.
    pub(crate) programs: Vec<String>,
    pub(crate) source: Source,
    pub(crate) format: Format,
    /// What goes between the program's name and its arguments.
    pub(crate) arguments: Vec<String>,
    /// What is set unless the caller sets it.
    pub(crate) environment: BTreeMap<String, String>,
    /// The first that matches a line counts.
    pub(crate) patterns: Vec<Regex>,
    /// The key that ends a report of `key-value`.
    pub(crate) end: Option<String>,
    pub(crate) unit: Option<String>,
    pub(crate) fields: Fields,
    pub(crate) context: Vec<Hint>,
    /// Events a second, at most.
    pub(crate) rate_limit: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    adapter: Vec<RawAdapter>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAdapter {
    name: Spanned<String>,
    #[serde(default, rename = "match")]
    programs: Vec<Spanned<String>>,
    source: Spanned<Source>,
    format: Spanned<Format>,
    #[serde(default)]
    arguments: Vec<Spanned<String>>,
    #[serde(default)]
    environment: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    patterns: Vec<Spanned<String>>,
    end: Option<Spanned<String>>,
    unit: Option<Spanned<String>>,
    fields: Option<Spanned<Fields>>,
    #[serde(default)]
    context: Vec<RawHint>,
    rate_limit: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHint {
    source: Spanned<Source>,
    pattern: Spanned<String>,
    fields: Option<Spanned<Fields>>,
}

impl<'de> Deserialize<'de> for Take {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Take, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            from: String,
            scale: Option<f64>,
        }
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Take;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a word, or { from = \"word\", scale = 0.001 }")
            }
            fn visit_str<E: serde::de::Error>(self, from: &str) -> Result<Take, E> {
                Ok(Take { from: from.to_owned(), scale: 1.0 })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Take, A::Error> {
                let long = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Take { from: long.from, scale: long.scale.unwrap_or(1.0) })
            }
        }
        from.deserialize_any(Reader)
    }
}

impl Fields {
    fn all(&self) -> [(&'static str, &Option<Take>); 6] {
        [
            ("done", &self.done),
            ("total", &self.total),
            ("unit", &self.unit),
            ("rate", &self.rate),
            ("eta", &self.eta),
            ("percent", &self.percent),
        ]
    }

    /// Fields that nobody maps are taken from the word that is called like them, where there is one.
    fn with_namesakes(mut self, is_word: impl Fn(&str) -> bool) -> Fields {
        let slots = [
            ("done", &mut self.done),
            ("total", &mut self.total),
            ("unit", &mut self.unit),
            ("rate", &mut self.rate),
            ("eta", &mut self.eta),
            ("percent", &mut self.percent),
        ];
        for (name, slot) in slots {
            if slot.is_none() && is_word(name) {
                *slot = Some(Take { from: name.to_owned(), scale: 1.0 });
            }
        }
        self
    }
}

impl Declaration {
    /// Whether it reads this of a program.
    pub(crate) fn reads(&self, source: Source) -> bool {
        self.source == source || self.context.iter().any(|hint| hint.source == source)
    }
}

/// The adapters of one file.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Vec<Declaration>, ConfigError> {
    let raw: RawFile = raw::parse(path, text)?;
    let judge = Judge { path, text };
    raw.adapter.into_iter().map(|adapter| judge.adapter(adapter)).collect()
}

/// A file whose values are judged.
struct Judge<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Judge<'_> {
    fn adapter(&self, raw: RawAdapter) -> Result<Declaration, ConfigError> {
        self.name(&raw.name)?;
        self.lists(&raw)?;
        self.side(&raw)?;
        let patterns = self.patterns(&raw)?;
        let end = match (raw.format.get_ref(), &raw.end) {
            (Format::KeyValue, None) => {
                return self.wrong(&raw.format, "end", "key-value needs the key that ends a report");
            }
            (Format::Regex | Format::JsonLines, Some(end)) => {
                return self.wrong(end, "end", "belongs to key-value");
            }
            (_, end) => end.as_ref().map(|end| end.get_ref().clone()),
        };
        let groups = |name: &str| has_group(&patterns, name);
        let fields = match raw.format.get_ref() {
            Format::Regex => self.fields(&raw.fields, "fields", groups)?.with_namesakes(groups),
            Format::KeyValue | Format::JsonLines => {
                self.fields(&raw.fields, "fields", |_| true)?.with_namesakes(|_| true)
            }
        };
        if fields.done.is_none() && fields.percent.is_none() {
            return self.wrong(&raw.name, "fields", "nothing says how far it is: name done or percent");
        }
        let rate_limit = match &raw.rate_limit {
            None => RATE_DEFAULT,
            Some(rate) if (1..=100).contains(rate.get_ref()) => *rate.get_ref() as u32,
            Some(rate) => return self.wrong(rate, "rate_limit", "must be from 1 to 100 events a second"),
        };
        Ok(Declaration {
            context: raw.context.iter().map(|hint| self.hint(hint)).collect::<Result<_, _>>()?,
            name: raw.name.into_inner(),
            programs: plain(raw.programs),
            source: raw.source.into_inner(),
            format: raw.format.into_inner(),
            arguments: plain(raw.arguments),
            environment: raw
                .environment
                .into_iter()
                .map(|(name, value)| (name, value.into_inner()))
                .collect(),
            patterns,
            end,
            unit: raw.unit.map(Spanned::into_inner),
            fields,
            rate_limit,
        })
    }

    fn name(&self, name: &Spanned<String>) -> Result<(), ConfigError> {
        let text = name.get_ref();
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if text == AUTO {
            return self.wrong(name, "name", "asks for the one that suits, so none is called that");
        }
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(fits) {
            return self.wrong(name, "name", "must be 1 to 64 of a-z, 0-9, '-', '_' and '.'");
        }
        Ok(())
    }

    /// Lists are short, and words can be given to a program.
    fn lists(&self, raw: &RawAdapter) -> Result<(), ConfigError> {
        let lists = [("match", &raw.programs), ("arguments", &raw.arguments), ("patterns", &raw.patterns)];
        for (field, list) in lists {
            if let Some(beyond) = list.get(LIST_MAX) {
                return self.wrong(beyond, field, "there are at most 16");
            }
            if let Some(word) = list.iter().find(|word| word.get_ref().contains('\0')) {
                return self.wrong(word, field, "holds a NUL byte");
            }
        }
        if let Some(program) =
            raw.programs.iter().find(|p| p.get_ref().is_empty() || p.get_ref().contains('/'))
        {
            return self.wrong(program, "match", "is the name of a program, without a folder");
        }
        if let Some(hint) = raw.context.get(LIST_MAX) {
            return self.wrong(&hint.pattern, "context", "there are at most 16");
        }
        for (name, value) in &raw.environment {
            if name.is_empty() || name.contains(['=', '\0']) || value.get_ref().contains('\0') {
                return self.wrong(value, "environment", format!("{name:?} can't be set so"));
            }
        }
        if raw.environment.len() > LIST_MAX {
            return self.wrong(&raw.name, "environment", "there are at most 16");
        }
        Ok(())
    }

    /// A side file is named to the program, and only where there is one.
    fn side(&self, raw: &RawAdapter) -> Result<(), ConfigError> {
        let named =
            raw.arguments.iter().chain(raw.environment.values()).find(|word| word.get_ref().contains(SIDE));
        let context = raw.context.iter().find(|hint| *hint.source.get_ref() == Source::Side);
        match (raw.source.get_ref(), named, context) {
            (Source::Side, None, _) => self.wrong(
                &raw.source,
                "source",
                "the side file is named in no argument or variable: write {side}",
            ),
            (Source::Stdout | Source::Stderr, Some(word), _) => {
                self.wrong(word, "arguments", "{side} belongs to source = \"side\"")
            }
            (Source::Stdout | Source::Stderr, _, Some(hint)) => {
                self.wrong(&hint.source, "context.source", "the adapter has no side file")
            }
            _ => Ok(()),
        }
    }

    fn patterns(&self, raw: &RawAdapter) -> Result<Vec<Regex>, ConfigError> {
        match (raw.format.get_ref(), raw.patterns.first()) {
            (Format::Regex, None) => self.wrong(&raw.format, "patterns", "regex needs one at least"),
            (Format::KeyValue | Format::JsonLines, Some(first)) => {
                self.wrong(first, "patterns", "belongs to regex")
            }
            _ => raw.patterns.iter().map(|pattern| self.pattern(pattern, "patterns")).collect(),
        }
    }

    fn pattern(&self, pattern: &Spanned<String>, field: &'static str) -> Result<Regex, ConfigError> {
        if pattern.get_ref().len() > PATTERN_BYTES_MAX {
            return self.wrong(pattern, field, "is longer than 1024 bytes");
        }
        let built = RegexBuilder::new(pattern.get_ref())
            .size_limit(PATTERN_SIZE_MAX)
            .dfa_size_limit(PATTERN_SIZE_MAX)
            .build();
        built.or_else(|error| {
            // The last line of the explanation is the reason; those above it draw a picture.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            self.wrong(pattern, field, format!("is no pattern: {reason}"))
        })
    }

    fn hint(&self, raw: &RawHint) -> Result<Hint, ConfigError> {
        let pattern = self.pattern(&raw.pattern, "context.pattern")?;
        let group = |name: &str| has_group(std::slice::from_ref(&pattern), name);
        let fields = self.fields(&raw.fields, "context.fields", group)?.with_namesakes(group);
        if fields.all().iter().all(|(_, take)| take.is_none()) {
            return self.wrong(&raw.pattern, "context.pattern", "has no group that a field is taken from");
        }
        Ok(Hint { source: *raw.source.get_ref(), pattern, fields })
    }

    /// Fields that are mapped are taken from words there are, and scaled by a number that makes sense.
    fn fields(
        &self,
        raw: &Option<Spanned<Fields>>,
        field: &'static str,
        is_word: impl Fn(&str) -> bool,
    ) -> Result<Fields, ConfigError> {
        let Some(raw) = raw else { return Ok(Fields::default()) };
        for (name, take) in raw.get_ref().all() {
            let Some(take) = take else { continue };
            if !is_word(&take.from) {
                return self.wrong(raw, field, format!("{name}: no pattern has a group {:?}", take.from));
            }
            if !(take.scale.is_finite() && take.scale > 0.0) {
                return self.wrong(raw, field, format!("{name}: scale must be above 0"));
            }
        }
        Ok(raw.get_ref().clone())
    }

    fn wrong<T, V>(
        &self,
        value: &Spanned<V>,
        field: &'static str,
        message: impl Into<String>,
    ) -> Result<T, ConfigError> {
        let line = line_at(self.text, value.span().start);
        let origin = Origin::File { path: self.path.to_path_buf(), line };
        Err(ConfigError::Value { origin, field, message: message.into() })
    }
}

fn plain(words: Vec<Spanned<String>>) -> Vec<String> {
    words.into_iter().map(Spanned::into_inner).collect()
}

fn has_group(patterns: &[Regex], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.capture_names().flatten().any(|group| group == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[[adapter]]\nname = \"x\"\nsource = \"stdout\"\nformat = \"regex\"\npatterns = ['(?P<percent>\\d+)%']\n";

    fn error(text: &str) -> String {
        parse(Path::new("a.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_short_declaration_is_enough() {
        let found = parse(Path::new("a.toml"), GOOD).unwrap();
        assert_eq!((found[0].name.as_str(), found[0].rate_limit), ("x", RATE_DEFAULT));
        assert_eq!(found[0].fields.percent.as_ref().map(|take| take.from.as_str()), Some("percent"));
        assert!(found[0].fields.done.is_none());
        assert!(parse(Path::new("a.toml"), "").unwrap().is_empty());
    }

    #[test]
    fn what_the_manual_shows_can_be_written() {
        let page = include_str!("../../docs/ADAPTERS.md");
        let shown: Vec<_> =
            page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        let found: Vec<_> = shown.iter().flat_map(|text| parse(Path::new("a.toml"), text).unwrap()).collect();
        assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["encoder", "mover"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_field() {
        let with = |line: &str| error(&format!("{GOOD}{line}\n"));
        let instead = |old: &str, new: &str| error(&GOOD.replace(old, new));
        for (found, expected) in [
            (with("rate = 3"), "a.toml:6: adapter.rate: unknown field"),
            (with("rate_limit = 0"), "a.toml:6: rate_limit: must be"),
            (with("end = \"x\""), "a.toml:6: end: belongs to key-value"),
            (with("match = [\"/bin/x\"]"), "a.toml:6: match: is the name"),
            (with("arguments = [\"{side}\"]"), "a.toml:6: arguments: {side} belongs"),
            (with("environment = { \"A=\" = \"\" }"), "a.toml:6: environment: \"A=\" can't"),
            (with("fields = { done = \"n\" }"), "a.toml:6: fields: done: no pattern has a group \"n\""),
            (
                with("fields = { percent = { from = \"percent\", scale = -1 } }"),
                "a.toml:6: fields: percent: scale",
            ),
            (with("fields = { percent = { form = \"percent\" } }"), "unknown field `form`"),
            (
                with("[[adapter.context]]\nsource = \"side\"\npattern = 'x'"),
                "a.toml:7: context.source: the adapter has",
            ),
            (
                with("[[adapter.context]]\nsource = \"stderr\"\npattern = 'x'"),
                "a.toml:8: context.pattern: has no group",
            ),
            (instead("\"x\"", "\"auto\""), "a.toml:2: name: asks"),
            (instead("\"x\"", "\"Ä\""), "a.toml:2: name: must be"),
            (instead("stdout", "stdin"), "a.toml:3: adapter.source: unknown variant"),
            (instead("stdout", "side"), "a.toml:3: source: the side file is named in no"),
            (instead("\"regex\"", "\"key-value\""), "a.toml:5: patterns: belongs to regex"),
            (instead("?P<percent>", ""), "a.toml:2: fields: nothing says how far"),
            (instead("\\d+)", "\\d+"), "a.toml:5: patterns: is no pattern: unclosed group"),
            (instead("\\d+", "\\w{9999}"), "a.toml:5: patterns: is no pattern"),
            (instead("patterns", "#"), "a.toml:4: patterns: regex needs one"),
        ] {
            assert!(found.contains(expected), "{found}\nexpected {expected}");
        }
    }
}
