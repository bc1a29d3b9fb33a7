//! Topic patterns: `*` is one or more characters but dots, `>` is one or more of any character but a newline,
//! everything else is itself.
//!
//! The original turned a pattern into a regular expression, so a client could hang it. Here a pattern is one
//! automaton of at most 128 states, a bit each, stepped once per character of the topic: the cost of a match is
//! the length of the topic, whatever the pattern. Invariant: after k characters bit i is set exactly when the
//! first i + 1 tokens match those k characters. What is delivered to whom is `bus`'s.

/// Longest pattern, in characters.
pub const PATTERN_CHARS_MAX: usize = 128;

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Per literal character the tokens that accept it, sorted by character.
    literals: Box<[(char, u128)]>,
    /// Tokens that are `*`.
    stars: u128,
    /// Tokens that are `>`.
    rests: u128,
    /// The bit of the last token.
    last: u128,
    /// What it begins with, if there is one wildcard and it is the last token: most patterns are such.
    head: Option<Box<str>>,
}

/// Why a pattern was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It has no characters.
    #[error("a topic pattern may not be empty")]
    Empty,
    /// It has more than [`PATTERN_CHARS_MAX`].
    #[error("a topic pattern may have at most {PATTERN_CHARS_MAX} characters")]
    TooLong,
}

impl Pattern {
    /// Compiles `text`.
    pub fn new(text: &str) -> Result<Pattern, PatternError> {
        let mut literals: Vec<(char, u128)> = Vec::new();
        let (mut stars, mut rests) = (0, 0);
        let mut length = 0;
        for token in text.chars() {
            if length == PATTERN_CHARS_MAX {
                return Err(PatternError::TooLong);
            }
            let bit = 1u128 << length;
            match token {
                '*' => stars |= bit,
                '>' => rests |= bit,
                literal => match literals.binary_search_by_key(&literal, |entry| entry.0) {
                    Ok(at) => literals[at].1 |= bit,
                    Err(at) => literals.insert(at, (literal, bit)),
                },
            }
            length += 1;
        }
        if length == 0 {
            return Err(PatternError::Empty);
        }
        let last = 1u128 << (length - 1);
        let head = (stars | rests == last).then(|| text[..text.len() - 1].into());
        Ok(Pattern { literals: literals.into_boxed_slice(), stars, rests, last, head })
    }

    /// True exactly when the whole of `topic` matches.
    pub fn matches(&self, topic: &str) -> bool {
        if let Some(head) = &self.head {
            let not = if self.stars == 0 { b'\n' } else { b'.' };
            let rest = topic.as_bytes().strip_prefix(head.as_bytes());
            return rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(&not));
        }
        let wild = self.stars | self.rests;
        let mut reached: u128 = 0;
        let mut first: u128 = 1;
        for character in topic.chars() {
            let accepting = self.accepting(character);
            reached = ((reached << 1) | first | (reached & wild)) & accepting;
            if reached == 0 {
                return false;
            }
            first = 0;
        }
        reached & self.last != 0
    }

    /// The tokens that accept `character`.
    fn accepting(&self, character: char) -> u128 {
        let mut tokens = match self.literals.binary_search_by_key(&character, |entry| entry.0) {
            Ok(at) => self.literals[at].1,
            Err(_) => 0,
        };
        if character != '.' {
            tokens |= self.stars;
        }
        if character != '\n' {
            tokens |= self.rests;
        }
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        Pattern::new(pattern).expect("a legal pattern").matches(topic)
    }

    #[test]
    fn the_original_grammar_is_kept() {
        for (pattern, yes, no) in [
            ("*", &["a", "abc"][..], &["a.b", ""][..]),
            ("a.*", &["a.b", "a.bc"], &["a", "a.", "a.b.c"]),
            ("a.*.c", &["a.b.c"], &["a.b.d", "a..c"]),
            (">", &["a", "a.b", ".", "a.b.c"], &["", "a\nb"]),
            ("a.>", &["a.b", "a.b.c"], &["a", "a."]),
            (">.c", &["a.b.c", "a.c"], &[".c", "c"]),
            ("a.>.c", &["a.b.c", "a.b.x.c"], &["a.c", "a..c.d"]),
            ("a*", &["abc", "ab"], &["a", "a.b"]),
            ("a.**", &["a.bc", "a.bcd"], &["a.b"]),
            ("a+b|c(", &["a+b|c("], &["aab", "b"]),
            (
                "kairo.process.exited",
                &["kairo.process.exited"],
                &["kairo-process-exited", "kairo.process.exite"],
            ),
        ] {
            for topic in yes {
                assert!(matches(pattern, topic), "{pattern:?} should match {topic:?}");
            }
            for topic in no {
                assert!(!matches(pattern, topic), "{pattern:?} should not match {topic:?}");
            }
        }
    }

    #[test]
    fn a_pattern_of_the_longest_length_works_to_its_last_character() {
        let text = "x".repeat(PATTERN_CHARS_MAX);
        assert!(matches(&text, &text));
        assert!(!matches(&text, &text[1..]));
        assert_eq!(Pattern::new(&format!("{text}x")), Err(PatternError::TooLong));
        assert_eq!(Pattern::new(""), Err(PatternError::Empty));
    }

    #[test]
    fn characters_count_not_bytes() {
        assert!(matches("*", "权"));
        assert!(!matches("**", "权"));
        assert!(matches("**.限", "权权.限"));
    }

    /// What the pattern means, written as directly as can be: exponential, for short words only.
    fn by_definition(pattern: &[char], topic: &[char]) -> bool {
        let Some((token, rest)) = pattern.split_first() else { return topic.is_empty() };
        let takes = |c: char| match token {
            '*' => c != '.',
            '>' => c != '\n',
            literal => c == *literal,
        };
        let most = if matches!(token, '*' | '>') { topic.len() } else { topic.len().min(1) };
        (1..=most).take_while(|n| takes(topic[n - 1])).any(|n| by_definition(rest, &topic[n..]))
    }

    #[test]
    fn every_short_pattern_agrees_with_the_definition() {
        let words = |letters: &[char], length: usize| -> Vec<Vec<char>> {
            let mut all = vec![vec![]];
            let mut last = all.clone();
            for _ in 0..length {
                last = last
                    .iter()
                    .flat_map(|word: &Vec<char>| letters.iter().map(|c| [word.clone(), vec![*c]].concat()))
                    .collect();
                all.extend(last.clone());
            }
            all
        };
        let topics = words(&['a', '.', 'b'], 5);
        for pattern in words(&['a', '.', '*', '>'], 4).into_iter().filter(|p| !p.is_empty()) {
            let compiled = Pattern::new(&pattern.iter().collect::<String>()).expect("legal");
            for topic in &topics {
                let text: String = topic.iter().collect();
                assert_eq!(
                    compiled.matches(&text),
                    by_definition(&pattern, topic),
                    "{pattern:?} on {text:?}"
                );
            }
        }
    }
}
