//! Numbers for people that a device may still be computing.
//!
//! A step says what it found (losses, norms) without waiting for it: whoever wants a number asks for it, and
//! asking for one from a GPU brings all that were noted before it ([`super::cuda::ledger`]).

/// A value that is known, or that is to be had from a device by waiting for it.
pub struct Later<T>(State<T>);

enum State<T> {
    Known(T),
    Asked(Box<dyn FnOnce() -> anyhow::Result<T> + Send>),
}

impl<T: 'static> Later<T> {
    /// A value that `ask` waits for.
    pub fn asked(ask: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Later<T> {
        Later(State::Asked(Box::new(ask)))
    }

    /// The value, if nobody has to wait for it.
    pub fn known(&self) -> Option<&T> {
        match &self.0 {
            State::Known(value) => Some(value),
            State::Asked(_) => None,
        }
    }

    /// The value; waits for it.
    ///
    /// # Errors
    /// The device's.
    pub fn value(self) -> anyhow::Result<T> {
        match self.0 {
            State::Known(value) => Ok(value),
            State::Asked(ask) => ask(),
        }
    }

    /// What `of` makes of the value.
    pub fn map<U: 'static>(self, of: impl FnOnce(T) -> U + Send + 'static) -> Later<U> {
        match self.0 {
            State::Known(value) => Later(State::Known(of(value))),
            State::Asked(ask) => Later::asked(move || Ok(of(ask()?))),
        }
    }

    /// Both.
    pub fn and<U: Send + 'static>(self, other: Later<U>) -> Later<(T, U)>
    where
        T: Send,
    {
        match (self.0, other.0) {
            (State::Known(a), State::Known(b)) => Later(State::Known((a, b))),
            (a, b) => Later::asked(move || Ok((Later(a).value()?, Later(b).value()?))),
        }
    }
}

impl<T> From<T> for Later<T> {
    fn from(value: T) -> Later<T> {
        Later(State::Known(value))
    }
}

impl<T: Default> Default for Later<T> {
    fn default() -> Later<T> {
        Later(State::Known(T::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_stays_known_and_what_is_asked_is_asked_once_it_is_wanted() {
        let known = Later::from(2).and(Later::from(3)).map(|(a, b)| a * b);
        assert_eq!(known.known(), Some(&6));
        let asked = Later::asked(|| Ok(5)).and(known).map(|(a, b)| a + b);
        assert_eq!(asked.known(), None);
        assert_eq!(asked.value().unwrap(), 11);
        let failed = Later::<i32>::asked(|| anyhow::bail!("lost")).map(|x| x + 1);
        assert_eq!(failed.value().unwrap_err().to_string(), "lost");
    }
}
