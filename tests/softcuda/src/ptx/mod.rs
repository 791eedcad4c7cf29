//! PTX text to a syntax tree.
//!
//! [`lexer`] cuts the text into tokens that borrow it, [`parser`] builds the tree of [`ast`]. Nothing is
//! resolved here: names are text, opcodes are lists of words. Input is hostile until proven otherwise:
//! nesting and counts are bounded, and no size in the text is allocated before it is checked.

pub mod ast;
pub mod lexer;
mod parser;

pub use parser::parse;

/// Text that isn't PTX.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct SyntaxError {
    /// Line of the text, from 1.
    pub line: u32,
    /// What was expected and what was found.
    pub message: String,
}
