//! The environment variables that steer softcuda, read once and checked.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `SOFTCUDA_DEVICE` | `sm_75`, `sm_80`, `sm_86`, `sm_89`, `sm_90`, `sm_100`, `sm_120` | `sm_90` |
//! | `SOFTCUDA_MEMORY` | device memory in bytes, or with `K`, `M`, `G` (powers of 1024) | the device's |
//! | `SOFTCUDA_DRIVER_VERSION` | the CUDA version the driver claims, `MAJOR.MINOR` | `13.5` |
//! | `SOFTCUDA_CHECKS` | `all`, `off` or a list | `all` |
//! | `SOFTCUDA_SCHEDULE` | a seed that shuffles the order of blocks and warps | in order |
//! | `SOFTCUDA_TIMEOUT` | seconds after which a kernel is stopped; `0` never | `600` |
//! | `SOFTCUDA_THREADS` | host threads that execute blocks | the cores |
//! | `SOFTCUDA_PROFILE` | a file that gets one JSON line a launch; a table at exit | none |
//! | `SOFTCUDA_PTXAS` | the `ptxas` that tells the profile registers and spills | the project's wheel, else on `PATH` |
//! | `SOFTCUDA_FAIL` | failures to plant, see [`Failures`] | none |

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use super::errors::Code;
use crate::options::Checks;
use crate::target::Target;

/// The settings of this process.
#[derive(Debug)]
pub struct Settings {
    /// The pretended device, its memory as `SOFTCUDA_MEMORY` says.
    pub target: Target,
    /// `CUDA_VERSION` of the pretended driver: 1000·major + 10·minor.
    pub driver_version: i32,
    /// The checks that are on.
    pub checks: Checks,
    /// Seed of the shuffled order of blocks and warps.
    pub schedule: Option<u64>,
    /// How long a kernel may run.
    pub timeout: Option<Duration>,
    /// Host threads that execute blocks.
    pub threads: usize,
    /// Where the counters go.
    pub profile: Option<PathBuf>,
    /// Failures to plant.
    pub failures: Failures,
    /// `CUDA_LAUNCH_BLOCKING=1`: a launch returns its own fault.
    pub blocking: bool,
}

/// Planted failures, `SOFTCUDA_FAIL=ITEM[,ITEM…]`:
///
/// - `no-device`: `cuInit` finds no device.
/// - `old-driver`: every PTX is too new for the driver, whatever its version.
/// - `alloc@N`: the N-th allocation of device memory (from 1) is out of memory.
/// - `kernel:NAME` or `kernel:NAME@N`: every launch, or the N-th, of kernel NAME faults as by an illegal address.
/// - `FUNCTION:CODE` or `FUNCTION:CODE@N`: every call, or the N-th, of the driver function returns CODE
///   (`cuStreamCreate:OUT_OF_MEMORY@2`; a name or a number).
#[derive(Debug, Default, PartialEq)]
pub struct Failures {
    /// `no-device`.
    pub no_device: bool,
    /// `old-driver`.
    pub old_driver: bool,
    /// `alloc@N`.
    pub allocations: Vec<u64>,
    /// `kernel:NAME[@N]`.
    pub kernels: Vec<PlannedLaunch>,
    /// `FUNCTION:CODE[@N]`.
    pub calls: Vec<PlannedCall>,
}

/// A launch that is to fault.
#[derive(Debug, PartialEq)]
pub struct PlannedLaunch {
    /// The kernel's name, mangled as in the PTX.
    pub kernel: String,
    /// Which launch of it, from 1; every one without.
    pub nth: Option<u64>,
}

/// A driver call that is to fail.
#[derive(Debug, PartialEq)]
pub struct PlannedCall {
    /// The exported function.
    pub function: String,
    /// What it returns.
    pub code: Code,
    /// Which call of it, from 1; every one without.
    pub nth: Option<u64>,
}

/// The settings of this process, or the sentence that says which variable is wrong.
pub fn settings() -> &'static Result<Settings, String> {
    static SETTINGS: OnceLock<Result<Settings, String>> = OnceLock::new();
    SETTINGS.get_or_init(|| Settings::parse(&|name| std::env::var(name).ok()))
}

/// The variables that [`Settings::parse`] and the profile read.
const VARIABLES: &[&str] = &[
    "DEVICE",
    "MEMORY",
    "DRIVER_VERSION",
    "CHECKS",
    "SCHEDULE",
    "TIMEOUT",
    "THREADS",
    "PROFILE",
    "PTXAS",
    "FAIL",
];

/// A sentence for each variable of the environment that looks like softcuda's and is none.
pub fn unknown_variables() -> Vec<String> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let unknown = names.filter(|name| {
        name.strip_prefix("SOFTCUDA_")
            .is_some_and(|rest| !VARIABLES.contains(&rest))
    });
    unknown
        .map(|name| {
            let known = VARIABLES.join(", SOFTCUDA_");
            format!("{name} is set, but means nothing; the variables are SOFTCUDA_{known}")
        })
        .collect()
}

/// The driver calls that are to fail.
pub fn planned_calls() -> &'static [PlannedCall] {
    settings()
        .as_ref()
        .map_or(&[], |settings| &settings.failures.calls)
}

impl Settings {
    /// Reads the variables through `get`.
    ///
    /// # Errors
    /// A sentence that names the variable, what it holds and what it should.
    pub fn parse(get: &dyn Fn(&str) -> Option<String>) -> Result<Settings, String> {
        let mut target = match get("SOFTCUDA_DEVICE") {
            None => Target::default(),
            Some(name) => Target::parse(&name).map_err(|_| {
                wrong(
                    "DEVICE",
                    &name,
                    "one of sm_75, sm_80, sm_86, sm_89, sm_90, sm_100, sm_120",
                )
            })?,
        };
        if let Some(text) = get("SOFTCUDA_MEMORY") {
            target.memory = parse_bytes(&text).ok_or_else(|| {
                wrong(
                    "MEMORY",
                    &text,
                    "a number of bytes such as 1073741824 or 8G",
                )
            })?;
        }
        let checks = get("SOFTCUDA_CHECKS").unwrap_or_default();
        let checks = Checks::parse(&checks).map_err(|_| wrong("CHECKS", &checks, CHECK_NAMES))?;
        Ok(Settings {
            target,
            driver_version: match get("SOFTCUDA_DRIVER_VERSION") {
                None => 13050,
                Some(text) => parse_version(&text).ok_or_else(|| {
                    wrong(
                        "DRIVER_VERSION",
                        &text,
                        "MAJOR.MINOR from 10.0 to 19.9, such as 12.4",
                    )
                })?,
            },
            checks,
            schedule: get("SOFTCUDA_SCHEDULE")
                .map(|text| {
                    text.parse()
                        .map_err(|_| wrong("SCHEDULE", &text, "a seed, a number from 0 to 2^64-1"))
                })
                .transpose()?,
            timeout: match get("SOFTCUDA_TIMEOUT") {
                None => Some(Duration::from_secs(600)),
                Some(text) => parse_timeout(&text).ok_or_else(|| {
                    wrong("TIMEOUT", &text, "seconds such as 10 or 0.5, or 0 for none")
                })?,
            },
            threads: match get("SOFTCUDA_THREADS") {
                None => std::thread::available_parallelism().map_or(1, |n| n.get()),
                Some(text) => text
                    .parse()
                    .ok()
                    .filter(|threads| (1..=1024).contains(threads))
                    .ok_or_else(|| wrong("THREADS", &text, "a number of threads from 1 to 1024"))?,
            },
            profile: get("SOFTCUDA_PROFILE")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            failures: match get("SOFTCUDA_FAIL") {
                None => Failures::default(),
                Some(text) => Failures::parse(&text)?,
            },
            blocking: get("CUDA_LAUNCH_BLOCKING").is_some_and(|value| value == "1"),
        })
    }

    /// The newest PTX ISA version the pretended driver takes: that of its CUDA version.
    pub fn newest_ptx(&self) -> (u32, u32) {
        let (major, minor) = (
            self.driver_version as u32 / 1000,
            self.driver_version as u32 % 1000 / 10,
        );
        match (major, minor) {
            (10, minor) => (6, 3 + minor),
            (11, minor) => (7, minor),
            // CUDA 12.5 and 12.6 share a version, so the later ones lag by one.
            (12, minor @ 0..=5) => (8, minor),
            (12, minor) => (8, minor - 1),
            (major, minor) => (major - 4, minor),
        }
    }
}

impl Failures {
    /// Parses `SOFTCUDA_FAIL`.
    ///
    /// # Errors
    /// A sentence that names the item that is none.
    pub fn parse(text: &str) -> Result<Failures, String> {
        let mut failures = Failures::default();
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            failures.add(item).ok_or_else(|| {
                wrong(
                    "FAIL",
                    item,
                    "no-device, old-driver, alloc@N, kernel:NAME[@N] or FUNCTION:CODE[@N], several with commas",
                )
            })?;
        }
        Ok(failures)
    }

    fn add(&mut self, item: &str) -> Option<()> {
        let (what, nth) = match item.rsplit_once('@') {
            None => (item, None),
            Some((what, nth)) => (what, Some(nth.parse().ok().filter(|&nth: &u64| nth > 0)?)),
        };
        match (what, what.split_once(':'), nth) {
            ("no-device", _, None) => self.no_device = true,
            ("old-driver", _, None) => self.old_driver = true,
            ("alloc", _, Some(nth)) => self.allocations.push(nth),
            (_, Some(("kernel", name)), nth) if !name.is_empty() => {
                self.kernels.push(PlannedLaunch {
                    kernel: name.to_owned(),
                    nth,
                });
            }
            (_, Some((function, code)), nth) if function.starts_with("cu") => {
                self.calls.push(PlannedCall {
                    function: function.to_owned(),
                    code: Code::parse(code)?,
                    nth,
                });
            }
            _ => return None,
        }
        Some(())
    }
}

fn wrong(variable: &str, found: &str, expected: &str) -> String {
    format!("SOFTCUDA_{variable} is \"{found}\", but must be {expected}")
}

const CHECK_NAMES: &str =
    "all, off or a list of memory, uninitialised, races, barriers, streams, leaks";

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes > 0).then_some(bytes)
}

fn parse_version(text: &str) -> Option<i32> {
    let (major, minor) = text.split_once('.')?;
    let (major, minor): (i32, i32) = (major.parse().ok()?, minor.parse().ok()?);
    ((10..20).contains(&major) && (0..10).contains(&minor)).then_some(major * 1000 + minor * 10)
}

/// Seconds, `None` inside for "never".
fn parse_timeout(text: &str) -> Option<Option<Duration>> {
    let seconds = text.parse::<f64>().ok()?;
    if seconds == 0.0 {
        return Some(None);
    }
    (seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).ok().map(Some))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> Result<Settings, String> {
        Settings::parse(&|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn a_bad_value_is_one_sentence_that_names_the_variable_and_what_it_may_be() {
        for (name, value) in [
            ("SOFTCUDA_DEVICE", "sm_91"),
            ("SOFTCUDA_MEMORY", "8 GB"),
            ("SOFTCUDA_MEMORY", "0"),
            ("SOFTCUDA_MEMORY", "99999999999999999999"),
            ("SOFTCUDA_DRIVER_VERSION", "12"),
            ("SOFTCUDA_CHECKS", "everything"),
            ("SOFTCUDA_SCHEDULE", "-1"),
            ("SOFTCUDA_TIMEOUT", "soon"),
            ("SOFTCUDA_TIMEOUT", "-1"),
            ("SOFTCUDA_TIMEOUT", "1e300"),
            ("SOFTCUDA_THREADS", "0"),
            ("SOFTCUDA_FAIL", "alloc"),
            ("SOFTCUDA_FAIL", "alloc@0"),
            ("SOFTCUDA_FAIL", "cuInit:NOT_A_CODE"),
            ("SOFTCUDA_FAIL", "kernel:"),
        ] {
            let sentence = with(name, value).expect_err(value);
            assert!(
                sentence.starts_with(&format!("{name} is \"{value}\", but must be ")),
                "{sentence}"
            );
            assert!(!sentence.contains('\n'));
        }
    }

    #[test]
    fn failures_parse_to_what_they_say() {
        let failures =
            Failures::parse("no-device, alloc@3,kernel:add@2,cuStreamCreate:OUT_OF_MEMORY")
                .unwrap();
        assert!(failures.no_device && !failures.old_driver);
        assert_eq!(failures.allocations, [3]);
        assert_eq!(
            failures.kernels,
            [PlannedLaunch {
                kernel: "add".into(),
                nth: Some(2)
            }]
        );
        let call = PlannedCall {
            function: "cuStreamCreate".into(),
            code: Code::OUT_OF_MEMORY,
            nth: None,
        };
        assert_eq!(failures.calls, [call]);
    }

    #[test]
    fn each_driver_takes_the_ptx_of_its_toolkit() {
        for (version, ptx) in [
            ("11.8", (7, 8)),
            ("12.4", (8, 4)),
            ("12.6", (8, 5)),
            ("12.9", (8, 8)),
            ("13.2", (9, 2)),
        ] {
            assert_eq!(
                with("SOFTCUDA_DRIVER_VERSION", version)
                    .unwrap()
                    .newest_ptx(),
                ptx
            );
        }
    }

    #[test]
    fn memory_takes_binary_suffixes() {
        assert_eq!(
            with("SOFTCUDA_MEMORY", "3M").unwrap().target.memory,
            3 << 20
        );
    }
}
