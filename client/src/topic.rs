//! Topic patterns, as the kernel matches them: for sorting received events to the subscriptions of a kernel that doesn't say
//! for which they are, and for whoever has more patterns than subscriptions.

/// `*` stands for one or more characters without a dot, `>` for one or more characters; everything else for itself.
pub fn matches(pattern: &str, topic: &str) -> bool {
    // Linear in pattern × topic: `reach[i]` is true when the pattern so far can end at byte i of the topic.
    let topic = topic.as_bytes();
    let mut reach = vec![false; topic.len() + 1];
    reach[0] = true;
    for wanted in pattern.bytes() {
        let mut next = vec![false; topic.len() + 1];
        for at in 0..topic.len() {
            let byte = topic[at];
            let wild = match wanted {
                b'*' => byte != b'.',
                b'>' => true,
                _ => false,
            };
            // A wild card goes on from where it has got to, or begins here.
            next[at + 1] = match wild {
                true => reach[at] || next[at],
                false => reach[at] && !matches!(wanted, b'*' | b'>') && wanted == byte,
            };
        }
        reach = next;
    }
    reach[topic.len()]
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_what_the_kernel_says_they_match() {
        for (pattern, topic) in [
            ("*", "a"),
            ("a.*", "a.b"),
            ("a.*.c", "a.b.c"),
            (">", "a.b"),
            ("a.>", "a.b"),
            ("a.>", "a.b.c"),
            (">.c", "a.b.c"),
            ("a.>.c", "a.b.x.c"),
            ("a*", "abc"),
            ("a.**", "a.bc"),
            ("a+b", "a+b"),
            ("kairo.process.>", "kairo.process.spawned"),
        ] {
            assert!(matches(pattern, topic), "{pattern} {topic}");
        }
        for (pattern, topic) in [
            ("*", "a.b"),
            ("a.*", "a"),
            ("a.*", "a.b.c"),
            ("a.*.c", "a.b.d"),
            ("a.>", "a"),
            ("a.>", "a."),
            ("a.**", "a.b"),
            ("", "a"),
            ("a", "ab"),
        ] {
            assert!(!matches(pattern, topic), "{pattern} {topic}");
        }
    }
}
