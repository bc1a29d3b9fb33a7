//! The thread that reads what the kernel asks for. It ends when there is no kernel to ask.

use super::Ear;
use kairo_controlplane::audit::inspecting::{Inspection, inspect};
use kairo_controlplane::events::ahead::{Ahead, HELD_FOR};
use kairo_controlplane::events::log::{Damage, Reader};
use kairo_controlplane::events::outlet::Question;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};

/// Most findings of the audit that are told in the life of a kernel: who verifies again is not told again.
const FINDINGS_MAX: usize = 1_000;

/// What is asked.
pub(super) enum Asked {
    Question(Question),
    Inspection(Inspection),
}

pub(super) fn run(reader: &Reader, asked: &Receiver<Asked>, ear: &Ear) {
    let mut ahead = Ahead::new(reader);
    let mut findings: Vec<Damage> = Vec::new();
    while let Some(asked) = next(asked, &mut ahead) {
        let (answer, found) = match asked {
            Asked::Question(question) => (ahead.answer(&question), Vec::new()),
            Asked::Inspection(inspection) => inspect(reader, &inspection),
        };
        let news = found.into_iter().filter(|one| !findings.contains(one));
        let news: Vec<Damage> = news.take(FINDINGS_MAX - findings.len()).collect();
        ear.tell(|kernel, at, out| {
            kernel.audit_damaged(at, &news, out);
            kernel.answered(at, answer, out);
        });
        findings.extend(news);
    }
}

/// What is asked next. While there is nothing, what will be asked is read, and let go of when it isn't.
fn next(all: &Receiver<Asked>, ahead: &mut Ahead<'_>) -> Option<Asked> {
    match all.try_recv() {
        Ok(asked) => return Some(asked),
        Err(TryRecvError::Disconnected) => return None,
        Err(TryRecvError::Empty) => ahead.look(),
    }
    if ahead.holds() {
        match all.recv_timeout(HELD_FOR) {
            Ok(asked) => return Some(asked),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => ahead.forget(),
        }
    }
    all.recv().ok()
}
