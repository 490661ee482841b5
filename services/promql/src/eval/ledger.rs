//! Counts the memory of one evaluation.

use std::cell::{Cell, RefCell};

use crate::error::EvalError;
use crate::limits::Reservation;

/// What an evaluation has taken of the budget.
pub(crate) struct Ledger(RefCell<Reservation>);

impl Ledger {
    pub(crate) fn new(reservation: Reservation) -> Self {
        Self(RefCell::new(reservation))
    }

    /// Takes so many bytes until the charge is dropped.
    pub(crate) fn charge(&self, bytes: usize) -> Result<Charge<'_>, EvalError> {
        let charge = Charge { ledger: self, bytes: Cell::new(0) };
        charge.add(bytes)?;
        Ok(charge)
    }

    pub(crate) fn into_reservation(self) -> Reservation {
        self.0.into_inner()
    }
}

/// Memory that is taken until this is dropped.
pub(crate) struct Charge<'a> {
    ledger: &'a Ledger,
    bytes: Cell<usize>,
}

impl Charge<'_> {
    /// Takes more.
    pub(crate) fn add(&self, bytes: usize) -> Result<(), EvalError> {
        self.ledger.0.borrow_mut().grow(bytes)?;
        self.bytes.set(self.bytes.get() + bytes);
        Ok(())
    }

    /// Takes what is missing to so many bytes.
    pub(crate) fn cover(&self, bytes: usize) -> Result<(), EvalError> {
        self.add(bytes.saturating_sub(self.bytes.get()))
    }

    /// Leaves the memory taken: it belongs to the result.
    pub(crate) fn keep(self) {
        self.bytes.set(0);
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.ledger.0.borrow_mut().shrink(self.bytes.get());
    }
}
