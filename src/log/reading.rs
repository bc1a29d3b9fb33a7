//! The thread that reads what the kernel asks for. It ends when there is no kernel to ask.

use super::Ear;
use kairo_controlplane::events::log::Reader;
use kairo_controlplane::events::outlet::Question;
use kairo_controlplane::events::reading::answer;
use std::sync::mpsc::Receiver;

pub(super) fn run(reader: &Reader, questions: &Receiver<Question>, ear: &Ear) {
    while let Ok(question) = questions.recv() {
        let answer = answer(reader, &question);
        ear.tell(|kernel, at, out| kernel.answered(at, answer, out));
    }
}
