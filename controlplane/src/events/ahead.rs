//! Pages of a replay, read before they are asked for.
//!
//! A client that reads the past asks for a page, gets it, asks for the next: while it is busy with one nobody reads the log.
//! So when somebody has asked for what follows a page that was answered, and nobody waits, the page behind that is read as
//! well. One at most, for a short while; it is given away if it is what the log shows at that time, too. Invariant: an answer
//! is what [`answer`] would give at that moment.

use crate::events::log::Reader;
use crate::events::outlet::{Answer, Question};
use crate::events::reading::{Draft, answer, answer_with};
use std::time::Duration;

/// How long a page is held for whoever may ask for it, when nobody asks for anything …
pub const HELD_FOR: Duration = Duration::from_millis(250);
/// … and over how many answers to others.
const ANSWERS_MAX: u32 = 32;

/// Answers questions, and reads ahead.
pub struct Ahead<'r> {
    reader: &'r Reader,
    /// What follows the page of a replay that was answered last.
    follows: Option<Question>,
    /// It is worth reading ahead: what was asked is what followed.
    goes_on: bool,
    /// A page that nobody has asked for.
    held: Option<(Question, Draft)>,
    /// Answers given since it is held.
    answers: u32,
}

impl<'r> Ahead<'r> {
    /// Reads with `reader`.
    pub fn new(reader: &'r Reader) -> Ahead<'r> {
        Ahead { reader, follows: None, goes_on: false, held: None, answers: 0 }
    }

    /// Answers a question.
    pub fn answer(&mut self, question: &Question) -> Answer {
        let held = self.take(question);
        self.answers += 1;
        if self.answers > ANSWERS_MAX {
            self.held = None;
        }
        if !question.is_replay() {
            return answer(self.reader, question);
        }
        let expected = self.follows.take();
        self.goes_on = expected.is_some_and(|expected| is_same(&expected, question));
        let draft = match held.map_or_else(|| Draft::read(self.reader, question), Ok) {
            Ok(draft) => draft,
            Err(error) => return answer_with(question, Err(error.into())),
        };
        self.follows = draft.page.next.map(|next| behind(question, next));
        answer_with(question, draft.finish(question).map_err(Into::into))
    }

    /// Reads what will be asked for next, if somebody goes on from page to page and nothing is held already.
    pub fn look(&mut self) {
        if !std::mem::take(&mut self.goes_on) || self.held.is_some() {
            return;
        }
        let Some(question) = &self.follows else { return };
        // What can't be read is told to whoever asks. A last page may grow until then.
        self.answers = 0;
        self.held = Draft::read(self.reader, question)
            .ok()
            .filter(|draft| draft.page.next.is_some())
            .map(|draft| (question.clone(), draft));
    }

    /// True if a page is held, which is to be [forgotten](Ahead::forget) when its time is over.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Lets go of what is held.
    pub fn forget(&mut self) {
        self.held = None;
    }

    /// The page that is held, if it is the one that is asked for and the log still shows it.
    fn take(&mut self, question: &Question) -> Option<Draft> {
        let (_, mut draft) = self.held.take_if(|(held, _)| is_same(held, question))?;
        let still = self.reader.still_shows(&question.query, &mut draft.page);
        still.is_ok_and(|still| still).then_some(draft)
    }
}

/// The same is asked for the same hearer.
fn is_same(one: &Question, other: &Question) -> bool {
    one.is_replay()
        && other.is_replay()
        && (&one.query, one.limit, &one.hearer) == (&other.query, other.limit, &other.hearer)
}

/// For what follows a page.
fn behind(question: &Question, next: u64) -> Question {
    let mut question = question.clone();
    match question.query.backward {
        true => question.query.to = next,
        false => question.query.from = next,
    }
    question
}
