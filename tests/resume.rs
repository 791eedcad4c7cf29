//! A run that is killed, stopped or starved of disk, and what is left of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A search small enough to be run several times over.
const SMALL: [&str; 16] = [
    "--device",
    "cpu",
    "--space",
    "nb201",
    "--channels",
    "2",
    "--cells",
    "1",
    "--epochs",
    "3",
    "--batch",
    "32",
    "--checkpoint-every",
    "2",
    "--seed",
    "7",
];

fn search(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ndarts"));
    command
        .arg("search")
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn start(out: &Path) -> Command {
    let mut command = search(&SMALL);
    command.arg("--out").arg(out);
    command
}

fn resume(out: &Path) -> Output {
    search(&["--resume", out.to_str().unwrap()])
        .output()
        .unwrap()
}

/// Waits until the log has `rounds` rounds; true if the search is still running then.
fn wait_for_round(child: &mut Child, out: &Path, rounds: usize) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(120) {
        let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap_or_default();
        if log.matches("\"kind\":\"round\"").count() >= rounds {
            return child.try_wait().unwrap().is_none();
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("round {rounds} was never reached");
}

/// The log without what the clock says.
fn timeless_log(out: &Path) -> Vec<serde_json::Value> {
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    log.lines()
        .map(|line| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            for key in ["seconds", "time"] {
                record.as_object_mut().unwrap().remove(key);
            }
            record
        })
        .collect()
}

/// What must be equal to the bit between two runs of the same settings.
fn results(out: &Path) -> Vec<Vec<u8>> {
    [
        "checkpoint/weights.safetensors",
        "genotype.json",
        "genotype.txt",
        "config.toml",
    ]
    .map(|name| std::fs::read(out.join(name)).unwrap())
    .into()
}

fn unbroken(folder: &Path) -> PathBuf {
    let out = folder.join("unbroken");
    let output = start(&out).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    out
}

#[test]
fn a_run_killed_again_and_again_ends_with_the_bits_of_an_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    let whole = unbroken(folder.path());
    let out = folder.path().join("killed");
    let mut kills = 0;
    let mut child = start(&out).spawn().unwrap();
    for rounds in [1, 3, 4, 9, 14] {
        if wait_for_round(&mut child, &out, rounds) {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
        child = search(&["--resume", out.to_str().unwrap()])
            .spawn()
            .unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(kills > 0, "the search is too fast to be killed");
    assert_eq!(results(&out), results(&whole));
    assert_eq!(timeless_log(&out), timeless_log(&whole));
}

#[test]
fn an_interrupt_finishes_the_round_writes_a_checkpoint_and_exits_130() {
    let folder = tempfile::tempdir().unwrap();
    let whole = unbroken(folder.path());
    let out = folder.path().join("stopped");
    let mut child = start(&out).spawn().unwrap();
    assert!(
        wait_for_round(&mut child, &out, 3),
        "the search is too fast to be stopped"
    );
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--resume"));
    let rounds = timeless_log(&out)
        .iter()
        .filter(|line| line["kind"] == "round")
        .count();
    let output = resume(&out);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("after round {rounds} ")));
    assert_eq!(results(&out), results(&whole));
    assert_eq!(timeless_log(&out), timeless_log(&whole));
}

#[test]
fn a_finished_run_resumed_gives_its_result_and_its_lost_files_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = unbroken(folder.path());
    let before = results(&out);
    std::fs::remove_file(out.join("genotype.txt")).unwrap();
    std::fs::remove_file(out.join("report.html")).unwrap();
    let output = resume(&out);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(results(&out), before);
    assert!(out.join("report.html").exists());
}

#[test]
fn the_config_of_a_run_repeats_it() {
    let folder = tempfile::tempdir().unwrap();
    let whole = unbroken(folder.path());
    let out = folder.path().join("again");
    let config = whole.join("config.toml");
    let arguments = [
        "--config",
        config.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--quiet",
    ];
    let output = search(&arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(output.stdout, results(&whole)[2]);
    assert_eq!(results(&out), results(&whole));
}

#[test]
fn a_damaged_checkpoint_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = unbroken(folder.path());
    let path = out.join("checkpoint/weights.safetensors");
    let good = std::fs::read(&path).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 0x40;
    let mut lying = good.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for bad in [&good[..good.len() - 3], &good[..5], b"", &flipped, &lying] {
        std::fs::write(&path, bad).unwrap();
        let output = resume(&out);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("weights.safetensors") && said.lines().count() == 1,
            "{said}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bad);
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_a_run_that_can_be_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "ndarts-test"])
        .arg(&disk)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        eprintln!("skipped: no small file system can be mounted here (it takes root)");
        return;
    }
    let _unmount = Unmount(disk.clone());
    let ballast = disk.join("ballast");
    // All but a few pages are taken, so that the log finds no room after a few rounds.
    std::fs::write(&ballast, vec![0; (3 << 20) - (48 << 10)]).unwrap();
    let out = disk.join("run");
    let output = start(&out).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(
        said.contains(disk.to_str().unwrap()) && !said.contains("panicked"),
        "{said}"
    );
    std::fs::remove_file(&ballast).unwrap();
    if out.join("config.toml").exists() {
        let output = resume(&out);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
