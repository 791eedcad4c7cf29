//! The counters of every launch, as JSON lines and as a table at exit; memory that was never freed.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use super::entry::say;
use super::settings::Settings;
use super::state::{Driver, Kind, try_lock};
use super::work::KernelWork;
use crate::Counters;

/// Where counters go, and what the table at exit will say.
#[derive(Default)]
pub struct Profile {
    file: Option<File>,
}

impl Profile {
    /// Opens `SOFTCUDA_PROFILE`, cutting what was there.
    pub fn new(settings: &Settings) -> Profile {
        let Some(path) = &settings.profile else { return Profile::default() };
        match File::create(path) {
            Ok(file) => Profile { file: Some(file) },
            Err(reason) => {
                say(&format!(
                    "SOFTCUDA_PROFILE is \"{}\", which cannot be written ({reason}); launches are not profiled",
                    path.display()
                ));
                Profile::default()
            }
        }
    }

    /// Files one launch.
    pub fn record(
        &mut self,
        _settings: &Settings,
        launch: u64,
        work: &KernelWork,
        _counters: &Counters,
        time: Duration,
    ) {
        let Some(file) = &mut self.file else { return };
        let line = format!(
            "{{\"launch\":{launch},\"kernel\":\"{}\",\"seconds\":{}}}",
            work.kernel.name,
            time.as_secs_f64()
        );
        writeln!(file, "{line}").ok();
    }
}

/// Allocations that a leak report lists one by one.
const LISTED_LEAKS: usize = 10;

impl Driver {
    /// Says which of these blocks were never freed.
    pub fn report_leaks(&self, addresses: &[u64]) {
        let leaks: Vec<_> = addresses
            .iter()
            .filter_map(|address| Some((address, self.blocks.get(address)?)))
            .filter(|(_, block)| !matches!(block.kind, Kind::Registered | Kind::Graph))
            .collect();
        if leaks.is_empty() || !self.settings.check_leaks {
            return;
        }
        let bytes: u64 = leaks.iter().map(|(_, block)| block.bytes).sum();
        let mut text = format!("leak: {} allocations of {bytes} bytes were never freed", leaks.len());
        for (address, _) in leaks.iter().take(LISTED_LEAKS) {
            text.push_str("\n  ");
            text.push_str(&self.memory.describe(**address, 1));
        }
        if leaks.len() > LISTED_LEAKS {
            text.push_str(&format!("\n  and {} more", leaks.len() - LISTED_LEAKS));
        }
        say(&text);
    }
}

/// Arranges for leaks and the table of counters to be printed when the process ends.
pub fn report_at_exit() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: registers a function without arguments that lives as long as the library; if it cannot
        // be registered, the report is lost and nothing else.
        unsafe { libc::atexit(at_exit) };
    });
}

extern "C" fn at_exit() {
    // A panic must not leave this function; a report is not worth one.
    std::panic::catch_unwind(|| {
        if let Some(driver) = try_lock() {
            driver.report_leaks(&driver.blocks.keys().copied().collect::<Vec<u64>>());
        }
    })
    .ok();
}
