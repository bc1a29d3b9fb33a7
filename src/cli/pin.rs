//! `--pin`: on which cores.

use std::str::FromStr;

/// Cores, as the operating system numbers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    /// Of the program; none for all.
    pub(crate) cpus: Option<Vec<u16>>,
    /// Of the kernel's thread that serves its streams.
    pub(crate) reactor: Option<u16>,
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Pin, String> {
        let wrong = || format!("{text:?} names no cores: write 0, 2-5,8, 0@1 or @1");
        let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        let (cpus, reactor) = match text.split_once('@') {
            Some((cpus, reactor)) => (cpus, Some(number(reactor)?)),
            None => (text, None),
        };
        if cpus.is_empty() && reactor.is_some() {
            return Ok(Pin { cpus: None, reactor });
        }
        let mut list = Vec::new();
        for piece in cpus.split(',') {
            match piece.split_once('-') {
                None => list.push(number(piece)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(wrong());
                    }
                    list.extend(first..=last);
                }
            }
        }
        Ok(Pin { cpus: Some(list), reactor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_as_everywhere_and_nonsense_is_refused() {
        let pin = |text: &str| text.parse::<Pin>().map(|pin| (pin.cpus, pin.reactor));
        assert_eq!(pin("0"), Ok((Some(vec![0]), None)));
        assert_eq!(pin("2-4,8"), Ok((Some(vec![2, 3, 4, 8]), None)));
        assert_eq!(pin("0@1"), Ok((Some(vec![0]), Some(1))));
        assert_eq!(pin("@1"), Ok((None, Some(1))));
        for nonsense in ["", "@", "a", "1-", "4-2", "0,", "1@", "70000"] {
            assert!(nonsense.parse::<Pin>().is_err(), "{nonsense}");
        }
    }
}
