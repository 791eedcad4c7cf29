//! Whole commands on a GPU, through the real binary on softcuda: probes and searches against the CPU, a
//! search that is killed, and what goes wrong around a GPU.

#[path = "common/softcuda.rs"]
mod softcuda;

use safetensors::{Dtype, SafeTensors};
use softcuda::Softcuda;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

const NDARTS: &str = env!("CARGO_BIN_EXE_ndarts");

fn run(command: &mut Command, arguments: &str) -> Output {
    let arguments = arguments.split_whitespace();
    command.args(arguments).output().expect("the binary starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

/// All tensors of a probe file that share a prefix as one vector: `hvp.*` and so on.
fn groups(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(file).expect("a probe file");
    let mut tensors = SafeTensors::deserialize(&bytes)
        .expect("a probe file")
        .tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut found: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (name, tensor) in tensors {
        if tensor.dtype() == Dtype::F32 {
            let group = name.split('.').next().unwrap_or_default().to_owned();
            let words = tensor.data().as_chunks::<4>().0.iter();
            let values = words.map(|&word| f32::from_le_bytes(word));
            found.entry(group).or_default().extend(values);
        }
    }
    found
}

/// ‖found − expected‖ / ‖expected‖
fn off(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let norm = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = || expected.iter().zip(found);
    let difference = norm(&mut pairs().map(|(&e, &f)| f64::from(e) - f64::from(f)));
    difference / norm(&mut expected.iter().map(|&x| f64::from(x))).max(f64::MIN_POSITIVE)
}

/// Probes on the GPU and the CPU from the same flags, and how far each group of tensors is off.
fn probes(softcuda: &Softcuda, flags: &str, on_gpu: &str) -> BTreeMap<String, f64> {
    let folder = tempfile::tempdir().expect("a folder");
    let (gpu, cpu) = (folder.path().join("gpu"), folder.path().join("cpu"));
    let probe = |device: &str, out: &Path| {
        format!("probe {flags} --device {device} --out {}", out.display())
    };
    let arguments = probe(&format!("cuda {on_gpu}"), &gpu);
    succeeded(&run(&mut softcuda.command(NDARTS), &arguments));
    succeeded(&run(&mut Command::new(NDARTS), &probe("cpu", &cpu)));
    let (expected, found) = (groups(&cpu), groups(&gpu));
    assert!(expected.keys().eq(found.keys()));
    let groups = expected.iter().zip(found.values());
    groups
        .map(|((name, e), f)| (name.clone(), off(e, f)))
        .collect()
}

/// The least supernet of each space.
const LEAST: [&str; 2] = [
    "--space nb201 --channels 2 --cells 1 --batch 2",
    "--space darts --channels 2 --cells 3 --batch 2",
];

#[test]
fn a_probe_on_the_gpu_matches_the_cpu() {
    let Some(softcuda) = Softcuda::find("probes on a GPU") else {
        return;
    };
    for space in LEAST {
        for terms in [0, 1, 3] {
            let flags = format!("{space} --neumann-terms {terms} --gamma 0.001");
            for (name, off) in probes(&softcuda, &flags, "") {
                println!("{flags}: {name} is off by {off:.1e}");
                let bound = match name.split('_').next() {
                    Some("loss" | "logits") => 1e-4,
                    Some("input" | "weights" | "arch" | "vector") => 0.0,
                    _ => 1e-3,
                };
                assert!(off <= bound, "{flags}: {name} is off by {off:.1e}");
            }
        }
    }
}

/// Four passes and the update of every op of both spaces: what blocks and warps leave to each other goes by fixed
/// trees, so that the order in which they run changes no bit.
#[test]
fn a_probe_has_the_same_bits_whatever_the_order_of_blocks_and_warps() {
    let Some(softcuda) = Softcuda::find("the order of blocks and warps") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let (nb201, darts) = ("--space nb201 --cells 1", "--space darts --cells 3");
    for (space, seeds) in [(nb201, &["1", "2"][..]), (darts, &["1"])] {
        for precision in ["f32", "bf16"] {
            let probe = |seed: Option<&str>| {
                let out = folder.path().join("probe");
                let mut command = softcuda.command(NDARTS);
                command.env("SOFTCUDA_CHECKS", "off");
                command.envs(seed.map(|seed| ("SOFTCUDA_SCHEDULE", seed)));
                let arguments = format!(
                    "probe {space} --channels 3 --batch 3 --image-size 8 --neumann-terms 1 --gamma 0.001 \
                     --device cuda --precision {precision} --out {}",
                    out.display()
                );
                succeeded(&run(&mut command, &arguments));
                let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
                let groups = groups(&out).into_iter();
                groups
                    .map(|(name, values)| (name, bits(values)))
                    .collect::<BTreeMap<String, Vec<u32>>>()
            };
            let in_order = probe(None);
            assert!(in_order["hvp"].iter().any(|&bits| bits != 0));
            for seed in seeds {
                let shuffled = probe(Some(seed));
                for (name, bits) in &in_order {
                    let same = bits == &shuffled[name];
                    assert!(same, "{space}, {precision}, seed {seed}: {name} differs");
                }
            }
        }
    }
}

/// In bf16 a relu's input within 2⁻⁹ of 0 may fall on either side, and derivatives are off by the root of the
/// share that did: what is held here is that a whole network is the same network. Each op and pass is held to
/// 2·10⁻² by the unit tests.
#[test]
fn a_probe_in_bf16_is_near_that_in_f32() {
    let Some(softcuda) = Softcuda::find("probes on a GPU") else {
        return;
    };
    let space = "--space nb201 --channels 4 --cells 1 --batch 16 --neumann-terms 0";
    for (name, off) in probes(&softcuda, space, "--precision bf16") {
        println!("{space} --precision bf16: {name} is off by {off:.1e}");
        let bound = match name.split('_').next() {
            Some("loss") => 5e-3,
            Some("logits") => 4e-2,
            _ => 0.6,
        };
        assert!(off <= bound, "{space}: {name} is off by {off:.1e}");
    }
}

/// A search of five rounds, all of whose kinds of steps are there.
const SEARCH: &str = "search --space nb201 --channels 2 --cells 1 --image-size 4 --batch 128 --epochs 1 \
                      --inner-steps 1 --weights sgd+es --population 2 --neumann-terms 1 --seed 7 \
                      --checkpoint-every 1";

/// The search without checks, which the probes have on: its point are the rounds.
fn search(softcuda: &Softcuda, out: &Path) -> Command {
    let mut command = softcuda.command(NDARTS);
    command.env("SOFTCUDA_CHECKS", "off");
    command.args(SEARCH.split_whitespace());
    command.args(["--device", "cuda", "--out"]).arg(out);
    command
}

fn resume(softcuda: &Softcuda, out: &Path) -> Output {
    let mut command = softcuda.command(NDARTS);
    command.env("SOFTCUDA_CHECKS", "off");
    let output = command.args(["search", "--resume"]).arg(out).output();
    output.expect("the binary starts")
}

/// A finished search on the GPU that nothing disturbed, shared by the tests.
fn unbroken(softcuda: &Softcuda) -> &'static Path {
    static RUN: OnceLock<tempfile::TempDir> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let output = search(softcuda, folder.path()).output();
        succeeded(&output.expect("the binary starts"));
        folder
    })
    .path()
}

/// The log's lines of a kind.
fn lines(out: &Path, kind: &str) -> Vec<serde_json::Value> {
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap_or_default();
    let lines = log.lines().filter_map(|l| serde_json::from_str(l).ok());
    lines
        .filter(|l: &serde_json::Value| l["kind"] == kind)
        .collect()
}

fn text(out: &Path, name: &str) -> Vec<u8> {
    std::fs::read(out.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[track_caller]
fn same_bits(out: &Path, whole: &Path) {
    for name in ["checkpoint/weights.safetensors", "genotype.json"] {
        assert!(text(out, name) == text(whole, name), "{name} differs");
    }
    let timeless = |out| -> Vec<serde_json::Value> {
        let mut rounds = lines(out, "round");
        for round in &mut rounds {
            round.as_object_mut().expect("a record").remove("seconds");
        }
        rounds
    };
    assert_eq!(timeless(out), timeless(whole));
}

#[test]
fn a_search_on_the_gpu_goes_the_way_of_the_cpu_to_the_same_genotype() {
    let Some(softcuda) = Softcuda::find("searches on a GPU") else {
        return;
    };
    let gpu = unbroken(&softcuda);
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = format!("{SEARCH} --device cpu --out {}", folder.path().display());
    succeeded(&run(&mut Command::new(NDARTS), &arguments));
    let device = &lines(gpu, "start")[0]["device"];
    assert!(
        device.as_str().is_some_and(|d| d.starts_with("cuda:0: ")),
        "{device}"
    );
    let rounds = lines(gpu, "round")
        .into_iter()
        .zip(lines(folder.path(), "round"));
    let mut count = 0;
    for (found, expected) in rounds {
        // The member that was best tells that the noise was the same, the losses that the batches were. Not
        // the last bits: a relu's input next to 0 may fall on either side, and later rounds carry it on.
        assert_eq!(found["es_choice"], expected["es_choice"]);
        for key in ["loss_train", "loss_val", "es_loss", "grad_norm"] {
            let [f, e] = [&found, &expected].map(|r| r[key].as_f64().expect(key));
            assert!((f / e - 1.0).abs() < 5e-3, "{key}: {f} and {e}");
        }
        count += 1;
    }
    assert_eq!(count, 5);
    assert_eq!(
        text(gpu, "genotype.json"),
        text(folder.path(), "genotype.json")
    );
}

/// Strategies that draw ops, each of which launches what it drew.
#[test]
fn strategies_that_run_a_part_of_the_supernet_search_on_the_gpu_as_on_the_cpu() {
    let Some(softcuda) = Softcuda::find("searches on a GPU") else {
        return;
    };
    let few = "search --space nb201 --channels 2 --cells 1 --image-size 4 --batch 128 --epochs 1 --seed 7";
    for strategy in [
        "gdas",
        "evolution",
        "random --option candidates=4 --option finalists=2",
    ] {
        let [gpu, cpu] = ["cuda", "cpu"].map(|device| {
            let folder = tempfile::tempdir().expect("a folder");
            let out = folder.path().display();
            let arguments = format!("{few} --strategy {strategy} --device {device} --out {out}");
            let mut command = softcuda.command(NDARTS);
            command.env("SOFTCUDA_CHECKS", "off");
            succeeded(&run(&mut command, &arguments));
            folder
        });
        let rounds = lines(gpu.path(), "round");
        let expected = lines(cpu.path(), "round");
        assert_eq!(rounds.len(), expected.len(), "{strategy}");
        for (found, expected) in rounds.iter().zip(&expected) {
            let [f, e] = [found, expected].map(|r| r["loss_train"].as_f64().expect("a loss"));
            assert!((f / e - 1.0).abs() < 5e-3, "{strategy}: {f} and {e}");
        }
        let [found, expected] = [&gpu, &cpu].map(|run| text(run.path(), "genotype.json"));
        assert!(found == expected, "{strategy}: another genotype");
    }
}

#[test]
fn a_search_killed_on_the_gpu_and_gone_on_with_ends_with_the_same_bits() {
    let Some(softcuda) = Softcuda::find("searches on a GPU") else {
        return;
    };
    let whole = unbroken(&softcuda);
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = search(&softcuda, folder.path());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the binary starts");
    while lines(folder.path(), "round").len() < 2 {
        let ended = child.try_wait().expect("a child");
        assert!(ended.is_none(), "the search is too fast to be killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("a child");
    child.wait().expect("a child");
    succeeded(&resume(&softcuda, folder.path()));
    same_bits(folder.path(), whole);
}

#[test]
fn a_kernel_that_faults_is_named_and_the_checkpoint_before_it_is_good() {
    let Some(softcuda) = Softcuda::find("searches on a GPU") else {
        return;
    };
    let whole = unbroken(&softcuda);
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = search(&softcuda, folder.path());
    let output = command
        .env("SOFTCUDA_FAIL", "kernel:update_adam@3")
        .output();
    let output = output.expect("the binary starts");
    let error = refusal(&output);
    for part in [
        "kernel update_adam",
        "faulted",
        "checkpoint of round 2",
        "stays in",
    ] {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
    assert_eq!(lines(folder.path(), "round").len(), 2);
    succeeded(&resume(&softcuda, folder.path()));
    same_bits(folder.path(), whole);
}

/// The sentence of a command that failed; softcuda's own findings stand before it.
#[track_caller]
fn refusal(output: &Output) -> String {
    let all = said(output);
    assert_eq!(output.status.code(), Some(1), "{all}");
    assert!(!all.contains("panicked"), "{all}");
    let errors: Vec<&str> = all.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{all}");
    errors[0].to_owned()
}

/// Asserts that a probe with `flags` under `variables` fails in a sentence with all of `expected`.
#[track_caller]
fn refused(
    softcuda: &Softcuda,
    flags: &str,
    variables: &[(&str, &str)],
    expected: &[&str],
) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("probe");
    let mut command = softcuda.command(NDARTS);
    command.envs(variables.iter().copied());
    let output = run(
        &mut command,
        &format!("probe {flags} --out {}", out.display()),
    );
    let error = refusal(&output);
    for part in expected {
        assert!(
            error.contains(part),
            "{variables:?}: no `{part}` in: {error}"
        );
    }
    assert!(!out.exists());
    error
}

#[test]
fn a_gpu_that_cannot_be_had_is_said_in_a_sentence() {
    let Some(softcuda) = Softcuda::find("faults of a GPU") else {
        return;
    };
    let least = LEAST[0];
    let cuda = format!("{least} --device cuda");
    let seven = format!("{least} --device cuda:7");
    refused(
        &softcuda,
        &seven,
        &[],
        &["--device cuda:7", "cuda:0", "ndarts devices"],
    );
    let no_device = [("SOFTCUDA_FAIL", "no-device")];
    refused(&softcuda, &cuda, &no_device, &["no GPU", "--device cpu"]);
    let no_nvrtc = [("NDARTS_NVRTC", "/nowhere/libnvrtc.so")];
    let expected = ["/nowhere/libnvrtc.so", "pip install nvidia-cuda-nvrtc"];
    refused(&softcuda, &cuda, &no_nvrtc, &expected);
    let old = [("SOFTCUDA_DRIVER_VERSION", "11.4")];
    refused(&softcuda, &cuda, &old, &["too old", "12.0", "11.4"]);
    let turing = [("SOFTCUDA_DEVICE", "sm_75")];
    for precision in ["--precision tf32", "--precision bf16"] {
        let flags = format!("{cuda} {precision}");
        refused(&softcuda, &flags, &turing, &[precision, "8.0", "7.5"]);
    }
    // On a machine with NVIDIA's driver there is one anyway.
    if !Path::new("/dev/nvidiactl").exists() {
        let no_driver = [("LD_LIBRARY_PATH", "/nowhere")];
        refused(
            &softcuda,
            &cuda,
            &no_driver,
            &["libcuda.so.1", "--device cpu"],
        );
    }
}

#[test]
fn auto_takes_a_gpu_that_is_there_and_says_what_it_took() {
    let Some(softcuda) = Softcuda::find("faults of a GPU") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("probe");
    let probe = format!(
        "probe {} --neumann-terms 0 --out {}",
        LEAST[0],
        out.display()
    );
    let no_nvrtc = ("NDARTS_NVRTC", "/nowhere/libnvrtc.so");
    for (variable, expected) in [
        (("SOFTCUDA_CHECKS", "off"), "device: cuda:0: "),
        (("SOFTCUDA_FAIL", "no-device"), "; no GPU"),
        (no_nvrtc, "the GPU cannot be used: NDARTS_NVRTC"),
    ] {
        let mut command = softcuda.command(NDARTS);
        command.env(variable.0, variable.1);
        let output = run(&mut command, &probe);
        succeeded(&output);
        let said = said(&output);
        let line = said.lines().find(|l| l.starts_with("device: "));
        let line = line.unwrap_or_else(|| panic!("no device in: {said}"));
        assert!(line.contains(expected), "{variable:?}: {line}");
    }
}

#[test]
fn a_driver_older_than_nvrtc_computes_the_same_from_machine_code() {
    let Some(softcuda) = Softcuda::find("faults of a GPU") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = Vec::new();
    for failure in ["", "old-driver"] {
        let out = folder.path().join(format!("probe{failure}"));
        let mut command = softcuda.command(NDARTS);
        if !failure.is_empty() {
            command.env("SOFTCUDA_FAIL", failure);
        }
        command.env("SOFTCUDA_CHECKS", "off");
        let flags = format!("{} --neumann-terms 0 --device cuda", LEAST[0]);
        succeeded(&run(
            &mut command,
            &format!("probe {flags} --out {}", out.display()),
        ));
        files.push(groups(&out));
    }
    assert!(files[0] == files[1]);
}

#[test]
fn too_large_a_network_is_told_the_batch_that_fits_and_that_one_does() {
    let Some(softcuda) = Softcuda::find("faults of a GPU") else {
        return;
    };
    let memory = [("SOFTCUDA_MEMORY", "8M"), ("SOFTCUDA_CHECKS", "off")];
    let flags = "--space nb201 --channels 4 --cells 1 --neumann-terms 1 --device cuda";
    let expected = [
        "--batch 256",
        "needs",
        "MB of device memory",
        "are free",
        "try --batch ",
    ];
    let error = refused(
        &softcuda,
        &format!("{flags} --batch 256"),
        &memory,
        &expected,
    );
    let advice = error.split("try --batch ").nth(1).expect("advice");
    let batch: String = advice.chars().take_while(char::is_ascii_digit).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("probe");
    let mut command = softcuda.command(NDARTS);
    command.envs(memory);
    let arguments = format!("probe {flags} --batch {batch} --out {}", out.display());
    succeeded(&run(&mut command, &arguments));
}
