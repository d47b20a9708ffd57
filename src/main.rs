//! The command line of adtide.

use std::process::ExitCode;

use adtide::cli::Cli;
use adtide::commands;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A worker that panics would leave its siblings waiting for ever: end the process, in debug builds too.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    match commands::dispatch(Cli::read()) {
        Ok(code) => code,
        Err(error) => {
            adtide::complain(&error);
            if error.is::<adtide::UsageError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
