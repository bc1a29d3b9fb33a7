//! The caller's terminal: raw while attached, and given back as it was found on every way out.
//!
//! Ways out are a return, a panic on any thread, and a signal (whoever handles one calls [`restore`] before it
//! ends the program). The saved settings live in one place for the whole program, so that whichever comes first
//! restores, and the others find nothing to do.

use rustix::termios::{OptionalActions, Termios, Winsize};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

/// Settings to go back to; none exactly when the terminal is as we found it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The panic hook is put in place once.
static HOOK: Once = Once::new();

/// The terminal is raw while this lives.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Makes the terminal of stdin raw: every key reaches the program at once, none becomes a signal here.
    pub(crate) fn enter() -> io::Result<Raw> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        let found = rustix::termios::tcgetattr(io::stdin().as_fd())?;
        let mut raw = found.clone();
        raw.make_raw();
        SAVED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(found);
        if let Err(errno) = rustix::termios::tcsetattr(io::stdin().as_fd(), OptionalActions::Drain, &raw) {
            restore();
            return Err(errno.into());
        }
        Ok(Raw(()))
    }
}

/// The terminal of stdin is raw, by us.
pub(crate) fn is_raw() -> bool {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Undoes [`Raw::enter`]; does nothing a second time. Also turns off what a full-screen program may have left on
/// (its screen, a hidden cursor, mouse reports, bracketed paste) when it is left and not ended.
pub(crate) fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(saved) = saved else { return };
    let mut stdout = io::stdout();
    if stdout.is_terminal() {
        if ALTERNATE.load(Ordering::Relaxed) {
            let _ = stdout.write_all(LEAVE_ALTERNATE);
        }
        let _ = stdout.write_all(LEAVE_MODES);
        let _ = stdout.flush();
    }
    // Nothing better can be done about a terminal that refuses its own settings.
    let _ = rustix::termios::tcsetattr(io::stdin().as_fd(), OptionalActions::Drain, &saved);
}

/// DECRST of mouse modes and bracketed paste, cursor on, keypad mode and attributes reset.
const LEAVE_MODES: &[u8] = b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?25h\x1b>\x1b[0m";

/// To the alternate screen, and back to the one before, cursor included.
const ENTER_ALTERNATE: &[u8] = b"\x1b[?1049h";
const LEAVE_ALTERNATE: &[u8] = b"\x1b[?1049l";

/// True exactly when what was printed last about it was the way to the alternate screen. Leaving it when it is not
/// shown would throw the cursor about.
static ALTERNATE: AtomicBool = AtomicBool::new(false);

/// Watches what is printed on our terminal for changes of screen. A sequence cut by a chunk's end is not seen; then
/// a program that is left leaves its screen behind, as it would without this.
pub(crate) fn watch(printed: &[u8]) {
    let ours = SAVED.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    if !ours {
        return;
    }
    if let Some(alternate) = screen_after(printed) {
        ALTERNATE.store(alternate, Ordering::Relaxed);
    }
}

/// Whether the alternate screen is shown after `printed`; none if that says nothing about it.
fn screen_after(printed: &[u8]) -> Option<bool> {
    let place = |sequence: &[u8]| printed.windows(sequence.len()).rposition(|window| window == sequence);
    match (place(ENTER_ALTERNATE), place(LEAVE_ALTERNATE)) {
        (None, None) => None,
        (entered, left) => Some(entered > left),
    }
}

/// Rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) cols: u16,
}

impl std::str::FromStr for Size {
    type Err = String;

    /// Reads `120x40`: columns, then rows.
    fn from_str(text: &str) -> Result<Size, String> {
        let wrong = || format!("{text:?} is no size; write COLUMNSxROWS, such as 120x40");
        let (cols, rows) = text.split_once('x').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u16>().ok().filter(|number| (1..=65_534).contains(number));
        Ok(Size { cols: number(cols).ok_or_else(wrong)?, rows: number(rows).ok_or_else(wrong)? })
    }
}

/// Size of the terminal that stdout, or else stdin or stderr, is; none if none of them is one.
pub(crate) fn size() -> Option<Size> {
    let of = |found: Result<Winsize, rustix::io::Errno>| {
        found.ok().filter(|size| size.ws_row > 0 && size.ws_col > 0)
    };
    of(rustix::termios::tcgetwinsize(io::stdout().as_fd()))
        .or_else(|| of(rustix::termios::tcgetwinsize(io::stdin().as_fd())))
        .or_else(|| of(rustix::termios::tcgetwinsize(io::stderr().as_fd())))
        .map(|size| Size { rows: size.ws_row, cols: size.ws_col })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_columns_by_rows() {
        assert_eq!("120x40".parse(), Ok(Size { cols: 120, rows: 40 }));
        for text in ["", "120", "120x", "x40", "0x40", "65535x1", "120X40", "-1x4", "120x40x1"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_screen_that_was_named_last_is_the_one_that_is_shown() {
        assert_eq!(screen_after(b"plain"), None);
        assert_eq!(screen_after(b"a\x1b[?1049hb"), Some(true));
        assert_eq!(screen_after(b"\x1b[?1049h..\x1b[?1049l"), Some(false));
        assert_eq!(screen_after(b"\x1b[?1049l..\x1b[?1049h"), Some(true));
    }

    #[test]
    fn restoring_a_terminal_that_was_never_raw_does_nothing() {
        restore();
        restore();
    }
}
