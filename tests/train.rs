//! Training through the real binary: run directory, resume, evaluation, export, bad input.

use std::path::Path;
use std::process::{Command, Output};

const CELL: &str =
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|skip_connect~0|none~1|avg_pool_3x3~2|";

fn ndarts(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ndarts"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn train(out: &Path, more: &[&str]) -> Output {
    let mut arguments = vec![
        "train",
        CELL,
        "--channels",
        "2",
        "--epochs",
        "2",
        "--batch",
        "64",
    ];
    arguments.extend(["--log-every", "5", "--seed", "3", "--out", text(out)]);
    arguments.extend(more);
    ndarts(&arguments)
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_training_leaves_a_whole_run_directory_that_evaluate_and_report_read() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let output = train(&out, &[]);
    assert!(output.status.success(), "{}", message(&output));
    for file in [
        "config.toml",
        "log.jsonl",
        "genotype.txt",
        "evaluation.json",
        "report.html",
        "checkpoint/weights.safetensors",
    ] {
        assert!(out.join(file).is_file(), "no {file}");
    }
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("Confusion on the test set") && page.contains("Drop path"));
    assert!(ndarts(&["report", text(&out)]).status.success());

    let (weights, onnx) = (
        folder.path().join("w.safetensors"),
        folder.path().join("w.onnx"),
    );
    let found = ndarts(&["evaluate", text(&out), "--json", "--export", text(&weights)]);
    assert!(found.status.success(), "{}", message(&found));
    let answer: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    let top1 = format!("{:.2}\n", 100.0 * answer["top1"].as_f64().unwrap());
    assert_eq!(String::from_utf8_lossy(&output.stdout), top1);

    // The exported file alone, at another batch size, says the same.
    let alone = ndarts(&[
        "evaluate",
        text(&weights),
        "--genotype",
        CELL,
        "--data",
        "digits",
        "--channels",
        "2",
        "--cells",
        "1",
        "--batch",
        "37",
        "--json",
        "--export",
        text(&onnx),
    ]);
    assert!(alone.status.success(), "{}", message(&alone));
    let again: serde_json::Value = serde_json::from_slice(&alone.stdout).unwrap();
    assert_eq!(again["confusion"], answer["confusion"]);
    assert!(std::fs::metadata(&onnx).unwrap().len() > 1000);
}

#[test]
fn a_run_stopped_at_a_checkpoint_ends_with_the_bits_of_an_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    assert!(train(&whole, &[]).status.success());
    assert!(
        train(&broken, &["--checkpoint-every", "7"])
            .status
            .success()
    );
    // What a kill after the first epoch's log but before its results leaves.
    std::fs::remove_file(broken.join("report.html")).unwrap();
    let resumed = ndarts(&["train", "--resume", text(&broken)]);
    assert!(resumed.status.success(), "{}", message(&resumed));
    assert!(broken.join("report.html").is_file());
    let bytes = |run: &Path| std::fs::read(run.join("checkpoint/weights.safetensors")).unwrap();
    assert_eq!(bytes(&whole), bytes(&broken));
}

/// Two classes of plain colour, in images of many sizes.
fn colours(folder: &Path) {
    for (part, count) in [("train", 8), ("test", 3)] {
        for (class, colour) in [("green", [20, 200, 60]), ("violet", [160, 30, 220])] {
            let class = folder.join(part).join(class);
            std::fs::create_dir_all(&class).unwrap();
            for i in 0..count {
                let image =
                    image::RgbImage::from_pixel(50 + 23 * i, 140 - 9 * i, image::Rgb(colour));
                image.save(class.join(format!("{i}.png"))).unwrap();
            }
        }
    }
}

#[test]
fn the_imagenet_network_learns_from_images_of_many_sizes_and_is_judged_on_their_centres() {
    let folder = tempfile::tempdir().unwrap();
    let (out, images) = (folder.path().join("run"), folder.path().join("images"));
    colours(&images);
    let data = format!("folder:{}", text(&images));
    let mut arguments = vec!["train", "DARTS_V1", "--imagenet", "--data", &data];
    arguments.extend([
        "--channels",
        "4",
        "--cells",
        "5",
        "--epochs",
        "4",
        "--warmup-epochs",
        "1",
    ]);
    arguments.extend([
        "--batch",
        "4",
        "--resize",
        "72",
        "--image-size",
        "64",
        "--out",
        text(&out),
    ]);
    let output = ndarts(&arguments);
    assert!(output.status.success(), "{}", message(&output));
    let found = ndarts(&["evaluate", text(&out), "--json"]);
    assert!(found.status.success(), "{}", message(&found));
    let answer: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(answer["images"], 6);
    let top1 = format!("{:.2}\n", 100.0 * answer["top1"].as_f64().unwrap());
    assert_eq!(String::from_utf8_lossy(&output.stdout), top1);
    let small = ndarts(&["evaluate", text(&out), "--resize", "60"]);
    assert!(message(&small).contains("--resize"), "{}", message(&small));
}

#[test]
fn bad_input_is_named_with_status_2_or_1() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let status = |arguments: &[&str], code: i32, part: &str| {
        let output = ndarts(arguments);
        let said = message(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(part) && said.lines().count() == 1, "{said}");
    };
    status(&["train"], 2, "GENOTYPE");
    status(&["train", "DARTS_V2", "--drop-path", "1"], 2, "--drop-path");
    status(&["train", CELL, "--drop-path", "0.1"], 2, "--drop-path");
    let edge = "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 9)], normal_concat=[2], \
                reduce=[('none', 0), ('none', 1)], reduce_concat=[2])";
    status(&["train", edge], 2, "9");
    status(
        &["train", CELL, "--auxiliary", "--out", text(&out)],
        1,
        "--auxiliary",
    );
    assert!(!out.exists());
    assert!(
        train(&out, &["--epochs", "1"]).status.code() == Some(2),
        "a flag given twice"
    );
    let mut arguments = vec!["train", CELL, "--channels", "2", "--epochs", "1", "--quiet"];
    arguments.extend(["--batch", "64", "--out", text(&out)]);
    assert!(ndarts(&arguments).status.success());
    let weights = out.join("checkpoint/weights.safetensors");
    let wider = ["evaluate", text(&out), "--channels", "4"];
    status(
        &wider,
        1,
        "tensor `stem.0.weight`: expected shape [4, 3, 3, 3], found [2, 3, 3, 3]",
    );
    status(&["evaluate", text(&weights)], 2, "--genotype");
    status(&["evaluate", text(&out), "--export", "net.pt"], 2, ".onnx");
    status(&["train", "--resume", text(&out), "--lr", "1"], 2, "--lr");
}
