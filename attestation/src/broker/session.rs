//! A broker's sessions. Each is one state, replaced as a whole.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use p256::PublicKey;

use super::refusal::{Reason, Refusal};

/// Sessions that are remembered; the oldest give way. One takes a few hundred bytes.
const MAX: usize = 16_384;

/// A guest that passed.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its key.
    pub key: PublicKey,
    /// The challenge that it answered.
    pub nonce: String,
    /// What is for it.
    pub secrets: BTreeSet<String>,
}

/// Where a session is.
#[derive(Clone, Debug)]
pub enum State {
    /// It was asked.
    Challenged {
        /// What.
        nonce: String,
        /// For whom it was opened, if that was said.
        key: Option<PublicKey>,
    },
    /// It answered, and was refused, or is being judged.
    Spent,
    /// It answered, and passed.
    Admitted(Guest),
}

/// All of them.
pub struct Sessions {
    lifetime: Duration,
    by_name: HashMap<String, State>,
    /// When each began, oldest first; each name of `by_name` is here once.
    ages: VecDeque<(Instant, String, Option<String>)>,
    /// Challenges of sessions that are remembered and were answered.
    answered: HashSet<String>,
}

impl Sessions {
    /// None yet.
    pub fn new(lifetime: Duration) -> Self {
        Self { lifetime, by_name: HashMap::new(), ages: VecDeque::new(), answered: HashSet::new() }
    }

    /// Opens one.
    pub fn open(&mut self, name: String, state: State, now: Instant) {
        self.forget(now);
        if self.ages.len() >= MAX {
            self.forget_oldest();
        }
        let nonce = match &state {
            State::Challenged { nonce, .. } => Some(nonce.clone()),
            _ => None,
        };
        self.ages.push_back((now, name.clone(), nonce));
        self.by_name.insert(name, state);
    }

    fn forget_oldest(&mut self) {
        if let Some((_, name, nonce)) = self.ages.pop_front() {
            self.by_name.remove(&name);
            nonce.map(|nonce| self.answered.remove(&nonce));
        }
    }

    fn forget(&mut self, now: Instant) {
        while self
            .ages
            .front()
            .is_some_and(|(since, ..)| now.saturating_duration_since(*since) > self.lifetime)
        {
            self.forget_oldest();
        }
    }

    fn find(&mut self, name: &str, now: Instant) -> Result<&mut State, Refusal> {
        self.forget(now);
        self.by_name.get_mut(name).ok_or_else(|| {
            Refusal::new(
                Reason::Session,
                "there is no such session, or it is over: ask for a challenge first",
            )
        })
    }

    /// Takes a session's state to judge it: whatever comes of it, its challenge is used up.
    ///
    /// # Errors
    /// There is no such session.
    pub fn take(&mut self, name: &str, now: Instant) -> Result<State, Refusal> {
        let state = self.find(name, now)?;
        if let State::Challenged { nonce, .. } = state {
            let nonce = nonce.clone();
            let taken = std::mem::replace(state, State::Spent);
            self.answered.insert(nonce);
            return Ok(taken);
        }
        Ok(state.clone())
    }

    /// Whether a challenge was answered that is still remembered.
    pub fn was_answered(&self, nonce: &str) -> bool {
        self.answered.contains(nonce)
    }

    /// Lets a guest in. A session that was forgotten while it was judged stays so.
    pub fn admit(&mut self, name: &str, guest: Guest) {
        if let Some(state @ State::Spent) = self.by_name.get_mut(name) {
            *state = State::Admitted(guest);
        }
    }

    /// The session's guest.
    ///
    /// # Errors
    /// There is none that passed.
    pub fn guest(&mut self, name: &str, now: Instant) -> Result<Guest, Refusal> {
        match self.find(name, now)? {
            State::Admitted(guest) => Ok(guest.clone()),
            _ => Err(Refusal::new(Reason::Session, "this session's guest has not passed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenged(nonce: &str) -> State {
        State::Challenged { nonce: nonce.into(), key: None }
    }

    #[test]
    fn a_challenge_is_taken_once_and_is_over_in_time() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut sessions = Sessions::new(10 * second);
        sessions.open("a".into(), challenged("1"), start);
        sessions.open("b".into(), challenged("2"), start + 5 * second);
        assert!(matches!(sessions.take("a", start), Ok(State::Challenged { .. })));
        assert!(matches!(sessions.take("a", start), Ok(State::Spent)));
        assert!(sessions.was_answered("1") && !sessions.was_answered("2"));
        assert!(sessions.guest("a", start).is_err());
        assert_eq!(sessions.take("a", start + 11 * second).unwrap_err().reason, Reason::Session);
        assert!(!sessions.was_answered("1"));
        assert!(sessions.take("b", start + 11 * second).is_ok());
        assert_eq!(sessions.take("c", start).unwrap_err().reason, Reason::Session);
    }

    #[test]
    fn strangers_take_no_more_memory_than_there_is_for_them() {
        let now = Instant::now();
        let mut sessions = Sessions::new(Duration::from_secs(60));
        for n in 0..MAX + 100 {
            sessions.open(n.to_string(), challenged(&n.to_string()), now);
        }
        assert_eq!((sessions.by_name.len(), sessions.ages.len()), (MAX, MAX));
        assert!(sessions.take("0", now).is_err() && sessions.take("100", now).is_ok());
    }
}
