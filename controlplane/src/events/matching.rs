//! Which of many patterns a topic matches, without asking each.
//!
//! ```text
//!   a.b.*.d     ─▶ a ─▶ b ─▶ * ─▶ d ■          segments: a literal, or a star alone
//!   a.b.>       ─▶ a ─▶ b ─▶ (asks the pattern)  whatever begins with another kind of segment
//! ```
//!
//! Patterns share a tree of segments as far as these are literals or single stars; at the first other segment the rest is
//! left to the pattern itself, which is asked only for topics that come that far. Invariant: the result is exactly what
//! asking every pattern would give, in the order of their serials.

use crate::events::pattern::Pattern;
use std::collections::HashMap;

/// Patterns by the serial of what wants them.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    root: Node,
    patterns: HashMap<u64, (Box<str>, Pattern)>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    star: Option<Box<Node>>,
    /// End here.
    whole: Vec<u64>,
    /// Go on in a way only they know.
    open: Vec<u64>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.literals.is_empty() && self.star.is_none() && self.whole.is_empty() && self.open.is_empty()
    }

    /// The list `text` ends in, made if it is not there.
    fn place(&mut self, text: &str) -> &mut Vec<u64> {
        let (head, rest) = split(text);
        let next = match head {
            "*" => self.star.get_or_insert_default(),
            _ if head.contains(['*', '>']) => return &mut self.open,
            _ => self.literals.entry(head.into()).or_default(),
        };
        match rest {
            Some(rest) => next.place(rest),
            None => &mut next.whole,
        }
    }

    /// Takes `serial` out where `text` ends; branches that hold nothing go.
    fn prune(&mut self, text: &str, serial: u64) {
        let (head, rest) = split(text);
        let next = match head {
            "*" => self.star.as_deref_mut(),
            _ if head.contains(['*', '>']) => return self.open.retain(|other| *other != serial),
            _ => self.literals.get_mut(head),
        };
        let Some(next) = next else { return };
        match rest {
            Some(rest) => next.prune(rest, serial),
            None => next.whole.retain(|other| *other != serial),
        }
        if next.is_empty() {
            match head {
                "*" => self.star = None,
                _ => drop(self.literals.remove(head)),
            }
        }
    }

    fn collect(&self, topic: Option<&str>, whole: &mut Vec<u64>, open: &mut Vec<u64>) {
        let Some(topic) = topic else { return whole.extend(&self.whole) };
        open.extend(&self.open);
        let (head, rest) = split(topic);
        if let Some(next) = self.literals.get(head) {
            next.collect(rest, whole, open);
        }
        if let Some(next) = self.star.as_deref().filter(|_| !head.is_empty()) {
            next.collect(rest, whole, open);
        }
    }
}

/// The first segment and what is behind its dot.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('.') {
        Some((head, rest)) => (head, Some(rest)),
        None => (text, None),
    }
}

impl Matcher {
    /// Adds a pattern, of which `text` is the text.
    pub(crate) fn insert(&mut self, serial: u64, text: &str, pattern: Pattern) {
        self.root.place(text).push(serial);
        self.patterns.insert(serial, (text.into(), pattern));
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, serial: u64) {
        if let Some((text, _)) = self.patterns.remove(&serial) {
            self.root.prune(&text, serial);
        }
    }

    /// Whose patterns match, in the order of their serials.
    pub(crate) fn matching(&self, topic: &str) -> Vec<u64> {
        let (mut whole, mut open) = (Vec::new(), Vec::new());
        self.root.collect(Some(topic), &mut whole, &mut open);
        let matches =
            |serial: &u64| self.patterns.get(serial).is_some_and(|(_, pattern)| pattern.matches(topic));
        whole.extend(open.into_iter().filter(matches));
        whole.sort_unstable();
        whole
    }

    /// True exactly when there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_says_what_every_pattern_would_say() {
        let words = ["", "a", "b", "*", ">", "a*", "ab", "**", "*>"];
        let mut matcher = Matcher::default();
        let mut all = Vec::new();
        let mut texts = Vec::new();
        for one in words {
            texts.push(one.to_owned());
            for two in words {
                texts.push(format!("{one}.{two}"));
                texts.extend(words.map(|three| format!("{one}.{two}.{three}")));
            }
        }
        for (serial, text) in (1u64..).zip(texts) {
            let Ok(pattern) = Pattern::new(&text) else { continue };
            matcher.insert(serial, &text, pattern.clone());
            all.push((serial, pattern));
        }
        let topics =
            ["a", "b", "ab", "a.b", "a.", ".a", "a.b.a", "a..b", "a.ab.b", "b.b.b.b", "\n", "a.\n", "c.c.c"];
        let check = |matcher: &Matcher, all: &[(u64, Pattern)]| {
            for topic in topics {
                let asked: Vec<u64> = all
                    .iter()
                    .filter(|(_, pattern)| pattern.matches(topic))
                    .map(|(serial, _)| *serial)
                    .collect();
                assert_eq!(matcher.matching(topic), asked, "{topic:?}");
            }
        };
        check(&matcher, &all);
        while let Some((serial, _)) = all.pop() {
            matcher.remove(serial);
            if serial % 100 == 0 {
                check(&matcher, &all);
            }
        }
        assert!(matcher.is_empty() && matcher.root.is_empty(), "nothing is left of what was taken out");
    }
}
