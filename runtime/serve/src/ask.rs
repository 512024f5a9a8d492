//! Answers the texts of one request.
//!
//! In: texts, each with a task. Out: predictions, in the same order, with the time each text waited. Refused: more
//! texts or longer ones than the limits allow, more than the client may ask, and texts for which a queue has no room.

use std::{sync::Arc, time::Duration};

use edge_run::{Error, Prediction, Text};
use hyper::StatusCode;

use crate::{
    batcher::{Answered, Full, Job, Worker},
    clients::Client,
    limits,
    reply::Refusal,
    tasks::Resident,
};

/// A prediction, and how long its text waited for the encoder.
pub(crate) struct Answer {
    pub prediction: Prediction,
    pub waited: Duration,
}

/// Queues all texts for their tasks, and waits for the answers, which come in the same order. Dropping the future
/// cancels texts that have not run.
///
/// # Errors
/// When there are more questions than a request may have, a text is too long, the client asks faster than it may, or a
/// queue is full.
pub(crate) async fn ask(
    client: &Client,
    questions: Vec<(Arc<Resident>, Arc<Text>)>,
) -> Result<Vec<Result<Answer, Refusal>>, Refusal> {
    check(questions.len(), questions.iter().map(|(_, text)| text.bytes()).sum())?;
    let mut workers: Vec<(Arc<Worker>, Vec<Job>)> = Vec::new();
    let mut receivers = Vec::with_capacity(questions.len());
    for (resident, text) in questions {
        for part in [Some(text.first()), text.second()].into_iter().flatten() {
            if part.len() > limits::TEXT_BYTES {
                let (expected, found) = (limits::TEXT_BYTES, part.len());
                return Err(Refusal::too_large(format!("expected a text of at most {expected} bytes, found {found}")));
            }
        }
        let (job, receiver) = Job::new(resident.task.clone(), text);
        receivers.push(receiver);
        match workers.iter_mut().find(|(worker, _)| Arc::ptr_eq(worker, &resident.worker)) {
            Some((_, jobs)) => jobs.push(job),
            None => workers.push((resident.worker.clone(), vec![job])),
        }
    }
    client.take_texts(receivers.len())?;
    for (worker, jobs) in workers {
        let count = jobs.len();
        worker.submit(jobs).map_err(|Full(most)| match count > most {
            true => too_many(most, "as the queue holds", count),
            false => Refusal::busy("more texts wait than the queue holds; ask again in a second"),
        })?;
    }
    let mut answers = Vec::with_capacity(receivers.len());
    for receiver in receivers {
        answers.push(receiver.await.map_err(|_| internal("the engine gave no answer")).and_then(answer));
    }
    Ok(answers)
}

fn too_many(most: usize, why: &str, found: usize) -> Refusal {
    Refusal::too_large(format!("expected at most {most} answers {why}, found {found}"))
}

/// Checks how many answers a request asks for, and how many bytes of texts.
///
/// # Errors
/// When there are more than a request may have.
pub(crate) fn check(answers: usize, bytes: usize) -> Result<(), Refusal> {
    if answers > limits::ANSWERS {
        return Err(too_many(limits::ANSWERS, "for a request, its texts times its tasks", answers));
    }
    if bytes > limits::ASKED_BYTES {
        let expected = limits::ASKED_BYTES;
        return Err(Refusal::too_large(format!(
            "expected at most {expected} bytes of texts times tasks, found {bytes}"
        )));
    }
    Ok(())
}

fn answer((answered, waited): Answered) -> Result<Answer, Refusal> {
    match answered {
        Ok(prediction) => Ok(Answer { prediction, waited }),
        Err(error @ (Error::Text(_) | Error::Tokenizer { .. })) => Err(Refusal::bad(error.to_string())),
        Err(Error::Memory { place, bytes, helps }) => {
            // The hint in the error is for whoever runs the server, so a client does not get it.
            tracing::warn!(place, bytes, helps, "a text has no answer: there is not enough memory");
            Err(Refusal::busy(format!("{place}: expected {bytes} bytes of memory, found less; ask again in a second")))
        }
        Err(error) => Err(internal(&error.to_string())),
    }
}

fn internal(message: &str) -> Refusal {
    tracing::error!(message, "a text has no answer");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

#[cfg(test)]
mod tests {
    use hyper::header::RETRY_AFTER;

    use super::*;
    use crate::reply::Form;

    #[test]
    fn who_asks_when_memory_is_short_is_told_to_ask_again_and_no_flags() {
        let helps = "fewer --threads need less";
        let short = Error::Memory { place: "a run of 9 tokens".to_owned(), bytes: 1 << 30, helps };
        let refusal = answer((Err(short), Duration::ZERO)).err().unwrap();
        let due = "a run of 9 tokens: expected 1073741824 bytes of memory, found less; ask again in a second";
        assert_eq!(refusal.message, due);
        let reply = refusal.into_reply(Form::Own);
        assert_eq!(reply.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(reply.headers()[RETRY_AFTER], "1");
    }
}
