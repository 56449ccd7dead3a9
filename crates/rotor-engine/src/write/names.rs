//! What GGUF and Hugging Face call each part of the graph.

use crate::architectures::ArchitectureInfo;
use crate::formats::{Role, gguf_stem};

/// The name in a GGUF.
pub fn gguf(role: Role) -> String {
    gguf_stem(role) + ".weight"
}

/// The name in a Hugging Face checkpoint of a class that generates text.
pub fn hugging_face(info: &ArchitectureInfo, role: Role) -> String {
    // Every role of an architecture has a module.
    info.modules("model.", role).swap_remove(0) + ".weight"
}
