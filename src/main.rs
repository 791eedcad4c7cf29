//! The `ndarts` program: everything is in [`ndarts::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ndarts::cli::main()
}
