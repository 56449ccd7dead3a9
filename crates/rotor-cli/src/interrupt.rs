//! Ctrl-C.
//!
//! While text is being generated, Ctrl-C asks for an end, which the generation notices at its next token. At any other time
//! it ends the program, temporary files first.

use crate::outcome::INTERRUPTED;
use std::sync::atomic::{AtomicU8, Ordering};

/// Ctrl-C ends the program.
const EXIT: u8 = 0;
/// Ctrl-C asks; a second one, from people who do not want to wait, ends the program.
const ASK: u8 = 1;
/// Ctrl-C asks, however often it comes.
const ASK_ONLY: u8 = 2;
/// It has been asked.
const ASKED: u8 = 3;
/// It has been asked, and may be asked again.
const ASKED_ONLY: u8 = 4;

static STATE: AtomicU8 = AtomicU8::new(EXIT);

/// Installs the handler. Where the system refuses, Ctrl-C does what it does by default.
pub(crate) fn install() {
    let _ = ctrlc::set_handler(|| {
        let asked = |state| match state {
            ASK => Some(ASKED),
            ASK_ONLY | ASKED_ONLY => Some(ASKED_ONLY),
            _ => None,
        };
        if STATE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, asked).is_err() {
            rotor::write::remove_temporaries();
            std::process::exit(INTERRUPTED.into());
        }
    });
}

/// Whether it has been asked to end what is going on.
pub(crate) fn requested() -> bool {
    matches!(STATE.load(Ordering::SeqCst), ASKED | ASKED_ONLY)
}

/// Ctrl-C asks for an end as long as this lives.
#[derive(Debug)]
pub(crate) struct Catch(());

impl Catch {
    /// For a program that ends with what is going on: a second Ctrl-C does not wait.
    pub(crate) fn once() -> Self {
        STATE.store(ASK, Ordering::SeqCst);
        Self(())
    }

    /// For a program that goes on afterwards.
    pub(crate) fn always() -> Self {
        STATE.store(ASK_ONLY, Ordering::SeqCst);
        Self(())
    }

    /// Forgets what was asked before.
    pub(crate) fn reset(&self) {
        let forget = |state| match state {
            ASKED => Some(ASK),
            ASKED_ONLY => Some(ASK_ONLY),
            _ => None,
        };
        // Nothing was asked where this changes nothing.
        let _ = STATE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, forget);
    }
}

impl Drop for Catch {
    fn drop(&mut self) {
        STATE.store(EXIT, Ordering::SeqCst);
    }
}
