//! Whether the loops of a service still turn: each is asked, and answers from inside.

use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

type Question = oneshot::Sender<()>;

/// The loops of a service that run now.
#[derive(Debug, Default)]
pub(crate) struct Loops(Mutex<Vec<mpsc::Sender<Question>>>);

impl Loops {
    /// Lets one more be asked, until what is returned is dropped.
    pub(crate) fn join(&self) -> Pulse {
        // Who has not answered the last question is not asked another one.
        let (sender, questions) = mpsc::channel(1);
        let mut loops = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|other| !other.is_closed());
        loops.push(sender);
        Pulse(questions)
    }

    /// Waits until each has answered or ended.
    pub(crate) async fn ping(&self) {
        let loops = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut answers = Vec::with_capacity(loops.len());
        for asked in loops {
            let (question, answer) = oneshot::channel();
            if asked.send(question).await.is_ok() {
                answers.push(answer);
            }
        }
        for answer in answers {
            // An error is a loop that has ended.
            let _ = answer.await;
        }
    }
}

/// A loop's side: to be polled wherever it waits.
#[derive(Debug)]
pub(crate) struct Pulse(mpsc::Receiver<Question>);

impl Pulse {
    /// Answers what was asked, and wakes the task when more is.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(question)) = self.0.poll_recv(cx) {
            let _ = question.send(());
        }
    }

    /// Answers what was asked, in the middle of work.
    pub(crate) fn answer_now(&mut self) {
        while let Ok(question) = self.0.try_recv() {
            let _ = question.send(());
        }
    }

    /// Waits for a question and answers it. Cancel safe.
    pub(crate) async fn answer(&mut self) {
        match self.0.recv().await {
            Some(question) => _ = question.send(()),
            // Its service is gone, and nobody is left to ask.
            None => std::future::pending().await,
        }
    }
}
