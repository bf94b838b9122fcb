//! Objects by path, for tests: what there is can be read, replaced where nobody
//! else did meanwhile, and merged into.
#![allow(
    dead_code,
    reason = "the tests beside the code and those of the program use parts of it"
)]

use super::{Answer, Api, ApiError, Ask, Verb};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

type Answerer = Box<dyn Fn(&Value) -> Value + Send + Sync>;

/// An API of objects that were made up.
#[derive(Default)]
pub(crate) struct Fake {
    objects: Mutex<BTreeMap<String, Value>>,
    /// What is answered to a `Create` at a path.
    answers: Mutex<BTreeMap<String, Answerer>>,
    asked: Mutex<Vec<String>>,
    /// Everything fails.
    down: Mutex<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panicked")
}

impl Fake {
    pub(crate) fn put(&self, path: &str, object: Value) {
        lock(&self.objects).insert(path.to_owned(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        lock(&self.objects).remove(path);
    }

    pub(crate) fn object(&self, path: &str) -> Value {
        lock(&self.objects).get(path).cloned().expect(path)
    }

    pub(crate) fn answers(
        &self,
        path: &str,
        answer: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) {
        lock(&self.answers).insert(path.to_owned(), Box::new(answer));
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.asked))
    }

    pub(crate) fn set_down(&self, down: bool) {
        *lock(&self.down) = down;
    }

    fn answer(&self, ask: &Ask) -> Result<Value, ApiError> {
        lock(&self.asked).push(format!("{ask:?}"));
        if *lock(&self.down) {
            return Err(ApiError::Unreachable("it is down".to_owned()));
        }
        let refused = |code: u16| ApiError::Refused {
            ask: format!("{ask:?}"),
            code,
            message: "so it is".to_owned(),
        };
        let body = ask.body.clone().unwrap_or_default();
        if ask.verb == Verb::Create {
            let answers = lock(&self.answers);
            let answer = answers.get(&ask.path).ok_or_else(|| refused(404))?;
            return Ok(answer(&body));
        }
        let mut objects = lock(&self.objects);
        let found = objects.get_mut(&ask.path).ok_or_else(|| refused(404))?;
        let version = found["metadata"]["resourceVersion"].clone();
        match ask.verb {
            Verb::Get | Verb::Create => return Ok(found.clone()),
            Verb::Replace if body["metadata"]["resourceVersion"] != version => {
                return Err(refused(409));
            }
            Verb::Replace => *found = body,
            Verb::Merge => merge(found, &body),
        }
        let number: u64 = version.as_str().and_then(|v| v.parse().ok()).unwrap_or(1);
        found["metadata"]["resourceVersion"] = json!((number + 1).to_string());
        Ok(found.clone())
    }
}

impl Api for Fake {
    fn send(&self, ask: Ask) -> Answer<'_> {
        Box::pin(async move {
            // As a network does, this lets others go first.
            tokio::task::yield_now().await;
            self.answer(&ask)
        })
    }
}

fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            for (name, value) in fields {
                merge(&mut into[name.as_str()], value);
            }
        }
        other => *into = other.clone(),
    }
}
