//! A model's file that is cut short while it is mapped: an error like any other, and not the death of the process.

use crate::interrupt::leave;
use crate::terminal::{message, printable};
use std::convert::Infallible;
use std::path::Path;

/// Installs the handler of the fault. Where the system refuses it, the fault ends the process as it does by default.
pub(crate) fn install() {
    let _ = rotor::formats::on_changed_file(end);
}

/// Ends the program: the thread that met the fault cannot go on. Its temporary files go first.
fn end(file: &Path) -> Infallible {
    rotor::write::remove_temporaries();
    message(format_args!("error: {} changed while it was read", printable(&file.display().to_string())));
    leave(1)
}
