//! The thread that reads what the kernel asks for. It ends when there is no kernel to ask.

use super::Ear;
use kairo_controlplane::events::ahead::{Ahead, HELD_FOR};
use kairo_controlplane::events::log::Reader;
use kairo_controlplane::events::outlet::Question;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};

pub(super) fn run(reader: &Reader, questions: &Receiver<Question>, ear: &Ear) {
    let mut ahead = Ahead::new(reader);
    while let Some(question) = next(questions, &mut ahead) {
        let answer = ahead.answer(&question);
        ear.tell(|kernel, at, out| kernel.answered(at, answer, out));
    }
}

/// The next question. While there is none, what will be asked is read, and let go of when it isn't.
fn next(questions: &Receiver<Question>, ahead: &mut Ahead<'_>) -> Option<Question> {
    match questions.try_recv() {
        Ok(question) => return Some(question),
        Err(TryRecvError::Disconnected) => return None,
        Err(TryRecvError::Empty) => ahead.look(),
    }
    if ahead.holds() {
        match questions.recv_timeout(HELD_FOR) {
            Ok(question) => return Some(question),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => ahead.forget(),
        }
    }
    questions.recv().ok()
}
