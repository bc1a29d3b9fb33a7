//! Who caused whom: a story's events as trees.
//!
//! Pure: no time, no terminal. An event stands under its cause if that came before it in the log; one whose cause isn't
//! known or came later is a root, so that no cycle can be. All is linear in the number of events, however deep or wide they
//! lie, and nothing recurses.
//!
//! Invariant: every event is in exactly one row of a walk, by itself or counted in a group.

use std::collections::HashMap;

/// So many of one type under one cause are shown one by one; more are a group.
const SHOWN_SINGLY: usize = 4;

/// An event, as far as the tree goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deed {
    pub(crate) id: String,
    pub(crate) cause: Option<String>,
    pub(crate) topic: String,
    pub(crate) time_ms: u64,
    pub(crate) life: Option<Life>,
}

/// What an event has to do with something that takes time: a process or an intent, by name.
#[derive(Clone, Debug)]
pub(crate) enum Life {
    Begins(String),
    Ends(String),
}

/// How long what an event began took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Took {
    /// So many milliseconds.
    Ms(u64),
    /// Its end isn't among the events.
    Unended,
}

#[derive(Debug, Default)]
struct Node {
    parent: Option<usize>,
    children: Vec<usize>,
    took: Option<Took>,
}

/// The trees of a story.
#[derive(Debug)]
pub(crate) struct Tree {
    deeds: Vec<Deed>,
    nodes: Vec<Node>,
    roots: Vec<usize>,
}

/// A line of the picture.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row<'t> {
    /// Which event, by its place in what the tree was made of; of a group the first.
    pub(crate) at: usize,
    /// Its cause, if it has one here.
    pub(crate) parent: Option<usize>,
    /// Of each level from the first below the roots to its own: whether nothing follows there.
    pub(crate) trail: &'t [bool],
    /// It stands for several of one type under one cause.
    pub(crate) group: Option<Group>,
}

/// Several events of one type under one cause, none of which caused anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) count: usize,
    pub(crate) last: usize,
}

impl Tree {
    /// Of events in the order of the log.
    pub(crate) fn new(deeds: Vec<Deed>) -> Tree {
        let mut nodes: Vec<Node> = Vec::with_capacity(deeds.len());
        let mut roots = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::with_capacity(deeds.len());
        let mut begun: HashMap<&str, usize> = HashMap::new();
        for (at, deed) in deeds.iter().enumerate() {
            // Only what came before is known here.
            let parent = deed.cause.as_deref().and_then(|cause| known.get(cause).copied());
            match parent {
                Some(parent) => nodes[parent].children.push(at),
                None => roots.push(at),
            }
            known.entry(&deed.id).or_insert(at);
            let mut node = Node { parent, ..Node::default() };
            match &deed.life {
                Some(Life::Begins(name)) => {
                    begun.insert(name, at);
                    node.took = Some(Took::Unended);
                }
                Some(Life::Ends(name)) => {
                    if let Some(start) = begun.remove(name.as_str()) {
                        let took = deed.time_ms.saturating_sub(deeds[start].time_ms);
                        nodes[start].took = Some(Took::Ms(took));
                    }
                }
                None => {}
            }
            nodes.push(node);
        }
        Tree { deeds, nodes, roots }
    }

    /// How long what an event began took.
    pub(crate) fn took(&self, at: usize) -> Option<Took> {
        self.nodes[at].took
    }

    /// Visits all rows from top to bottom; with `all` without groups.
    pub(crate) fn walk<E>(
        &self,
        all: bool,
        mut visit: impl FnMut(&Row<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // What is still to be visited, the next one last: which, how deep, whether it is its parent's last.
        let mut ahead: Vec<Ahead> = Vec::new();
        let mut trail: Vec<bool> = Vec::new();
        self.push(&self.roots, 0, all, &mut ahead);
        while let Some(Ahead { at, depth, last, group }) = ahead.pop() {
            // Roots stand at the edge, so their own place leads nowhere.
            if depth > 0 {
                trail.truncate(depth - 1);
                trail.push(last);
            } else {
                trail.clear();
            }
            visit(&Row { at, parent: self.nodes[at].parent, trail: &trail, group })?;
            self.push(&self.nodes[at].children, depth + 1, all, &mut ahead);
        }
        Ok(())
    }

    fn push(&self, siblings: &[usize], depth: usize, all: bool, ahead: &mut Vec<Ahead>) {
        let shown = self.grouped(siblings, all);
        let count = shown.len();
        for (place, (at, group)) in shown.into_iter().enumerate().rev() {
            ahead.push(Ahead { at, depth, last: place + 1 == count, group });
        }
    }

    /// Siblings, the many of one type that caused nothing at the place of the first.
    fn grouped(&self, siblings: &[usize], all: bool) -> Vec<(usize, Option<Group>)> {
        let mut floods: HashMap<&str, Group> = HashMap::new();
        if siblings.len() > SHOWN_SINGLY && !all {
            for at in siblings.iter().copied().filter(|at| self.nodes[*at].children.is_empty()) {
                let flood = floods.entry(&self.deeds[at].topic).or_insert(Group { count: 0, last: at });
                (flood.count, flood.last) = (flood.count + 1, at);
            }
            floods.retain(|_, flood| flood.count > SHOWN_SINGLY);
        }
        let mut shown = Vec::new();
        for at in siblings.iter().copied() {
            let topic = self.deeds[at].topic.as_str();
            match floods.get_mut(topic).filter(|_| self.nodes[at].children.is_empty()) {
                None => shown.push((at, None)),
                // Taken once: the others of it are in the number.
                Some(flood) if flood.count > 0 => {
                    shown.push((at, Some(*flood)));
                    flood.count = 0;
                }
                Some(_) => {}
            }
        }
        shown
    }
}

#[derive(Debug)]
struct Ahead {
    at: usize,
    depth: usize,
    last: bool,
    group: Option<Group>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::time::{Duration, Instant};

    fn deed(id: usize, cause: Option<usize>, topic: &str) -> Deed {
        Deed {
            id: id.to_string(),
            cause: cause.map(|cause| cause.to_string()),
            topic: topic.to_owned(),
            time_ms: id as u64 * 10,
            life: None,
        }
    }

    fn rows(tree: &Tree, all: bool) -> Vec<(usize, usize, usize)> {
        let mut rows = Vec::new();
        let walked: Result<(), Infallible> = tree.walk(all, |row| {
            rows.push((row.at, row.trail.len(), row.group.map_or(1, |group| group.count)));
            Ok(())
        });
        walked.unwrap();
        rows
    }

    #[test]
    fn an_event_stands_under_its_cause_and_siblings_in_their_order() {
        let tree = Tree::new(vec![
            deed(0, None, "call"),
            deed(1, Some(0), "spawn"),
            deed(2, None, "other"),
            deed(3, Some(1), "progress"),
            deed(4, Some(0), "reply"),
            deed(5, Some(1), "exit"),
        ]);
        assert_eq!(rows(&tree, false), [(0, 0, 1), (1, 1, 1), (3, 2, 1), (5, 2, 1), (4, 1, 1), (2, 0, 1)]);
        let mut trails = Vec::new();
        let walked: Result<(), Infallible> = tree.walk(false, |row| {
            trails.push(row.trail.to_vec());
            Ok(())
        });
        walked.unwrap();
        assert_eq!(trails[2..5], [vec![false, false], vec![false, true], vec![true]]);
    }

    #[test]
    fn a_cause_that_is_unknown_or_lies_in_the_future_makes_a_root_and_no_cycle() {
        let tree = Tree::new(vec![
            deed(0, Some(1), "a"),
            deed(1, Some(0), "b"),
            deed(2, Some(2), "itself"),
            deed(3, Some(99), "unknown"),
        ]);
        assert_eq!(rows(&tree, false), [(0, 0, 1), (1, 1, 1), (2, 0, 1), (3, 0, 1)]);
    }

    #[test]
    fn a_flood_is_one_row_and_what_caused_something_is_none_of_it() {
        let mut deeds = vec![deed(0, None, "call")];
        deeds.extend((1..=10).map(|n| deed(n, Some(0), "progress")));
        deeds.push(deed(11, Some(5), "denied"));
        deeds.push(deed(12, Some(0), "exit"));
        let tree = Tree::new(deeds);
        assert_eq!(rows(&tree, false), [(0, 0, 1), (1, 1, 9), (5, 1, 1), (11, 2, 1), (12, 1, 1)]);
        assert_eq!(rows(&tree, true).len(), 13);
        let few = Tree::new((0..SHOWN_SINGLY).map(|n| deed(n, None, "few")).collect());
        assert_eq!(rows(&few, false).len(), SHOWN_SINGLY);
    }

    #[test]
    fn what_begins_and_ends_has_a_length() {
        let mut deeds = vec![deed(0, None, "spawn"), deed(1, Some(0), "spawn"), deed(7, Some(0), "exit")];
        deeds[0].life = Some(Life::Begins("s".to_owned()));
        deeds[1].life = Some(Life::Begins("t".to_owned()));
        deeds[2].life = Some(Life::Ends("s".to_owned()));
        let tree = Tree::new(deeds);
        let took: Vec<_> = (0..3).map(|at| tree.took(at)).collect();
        assert_eq!(took, [Some(Took::Ms(70)), Some(Took::Unended), None]);
    }

    #[test]
    fn a_hundred_thousand_events_take_no_quadratic_time_however_they_lie() {
        const MANY: usize = 100_000;
        let begun = Instant::now();
        let chain = Tree::new((0..MANY).map(|n| deed(n, n.checked_sub(1), "chain")).collect());
        let wide = Tree::new((0..MANY).map(|n| deed(n, (n > 0).then_some(0), &format!("t{n}"))).collect());
        let bush = Tree::new((0..MANY).map(|n| deed(n, (n > 0).then_some(n / 3), "bush")).collect());
        assert_eq!(rows(&chain, false).len(), MANY);
        assert_eq!(rows(&wide, false).len(), MANY);
        let counted: usize = rows(&bush, false).iter().map(|(_, _, count)| count).sum();
        assert_eq!(counted, MANY);
        // Squared they would be minutes.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
