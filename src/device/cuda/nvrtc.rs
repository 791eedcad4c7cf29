//! NVRTC: finding it, and compiling one specialisation with it.
//!
//! The library is loaded by hand, by its full path: users have it in a system toolkit, in a Python
//! environment, or where `NDARTS_NVRTC` says, and which one was taken must be known, because its
//! version is part of every cache key. `libnvrtc-builtins` beside it is loaded first: NVRTC asks the
//! dynamic loader for it by name, which does not look into a wheel's folder.

use anyhow::{Context as _, bail};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What to say when there is none.
const INSTALL: &str = "install the CUDA toolkit or `pip install nvidia-cuda-nvrtc`, or set NDARTS_NVRTC \
                       to the library or its folder";

type Program = *mut c_void;
type Get = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Fill = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The functions that are used.
struct Functions {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    ptx: (Get, Fill),
    cubin: (Get, Fill),
    log: (Get, Fill),
    error: unsafe extern "C" fn(c_int) -> *const c_char,
}

/// A loaded NVRTC.
pub struct Nvrtc {
    functions: Functions,
    /// Major and minor version.
    pub version: (i32, i32),
    /// Which file it is.
    pub path: PathBuf,
    /// Architectures it compiles for, ascending: 75, 80, …
    pub architectures: Vec<u32>,
    // Dropped last: the functions above are theirs.
    _library: Library,
    _builtins: Option<Library>,
}

/// What to compile to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Text that the driver compiles for its device: at least this architecture.
    Ptx(u32),
    /// Machine code of this architecture.
    Cubin(u32),
}

impl Target {
    /// As an option of NVRTC.
    pub fn option(self) -> String {
        match self {
            Target::Ptx(arch) => format!("--gpu-architecture=compute_{arch}"),
            Target::Cubin(arch) => format!("--gpu-architecture=sm_{arch}"),
        }
    }
}

/// The NVRTC of this process, loaded on first use.
///
/// # Errors
/// None that works; the message says where it was looked for and what to install.
pub fn nvrtc() -> anyhow::Result<&'static Nvrtc> {
    static LOADED: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| Nvrtc::find().map_err(|e| format!("{e:#}")));
    loaded.as_ref().map_err(|e| anyhow::anyhow!("{e}"))
}

impl Nvrtc {
    /// Looks for the library.
    ///
    /// # Errors
    /// See [`nvrtc`].
    pub fn find() -> anyhow::Result<Nvrtc> {
        if let Some(given) = std::env::var_os("NDARTS_NVRTC") {
            let given = PathBuf::from(given);
            let found = if given.is_dir() {
                inside(&given)
                    .with_context(|| format!("no libnvrtc.so.* in or under {}", given.display()))
            } else {
                Ok(given.clone())
            };
            let loaded = found.and_then(|path| Nvrtc::load(&path));
            return loaded.with_context(|| {
                let given = given.display();
                format!("NDARTS_NVRTC: expected NVRTC 12 or newer, found `{given}`; {INSTALL}")
            });
        }
        let mut failed = None;
        for folder in folders() {
            let Some(path) = inside(&folder) else {
                continue;
            };
            match Nvrtc::load(&path) {
                Ok(loaded) => return Ok(loaded),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        // Where else the dynamic loader looks: the system's folders.
        for name in ["libnvrtc.so.13", "libnvrtc.so.12"] {
            if let Ok(loaded) = Nvrtc::load(Path::new(name)) {
                return Ok(loaded);
            }
        }
        match failed {
            Some(error) => {
                Err(error).with_context(|| format!("the NVRTC found does not work; {INSTALL}"))
            }
            None => bail!("NVRTC, which compiles the CUDA kernels, was not found; {INSTALL}"),
        }
    }

    /// Loads the library `path`.
    ///
    /// # Errors
    /// A file that is no NVRTC, or one before version 12.
    pub fn load(path: &Path) -> anyhow::Result<Nvrtc> {
        let shown = path.display();
        let builtins = path.parent().and_then(builtins_in);
        // SAFETY: loading runs the initialisers of the library that the user's system or NDARTS_NVRTC
        // names as NVRTC; nothing else is loaded.
        let builtins = builtins.and_then(|path| unsafe { Library::new(path) }.ok());
        // SAFETY: as above.
        let library = unsafe { Library::new(path) }
            .with_context(|| format!("{shown}: expected the NVRTC library"))?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the name's signature is that of nvrtc.h, which is stable since version 11.
                *unsafe { library.get($name) }.with_context(|| {
                    let name = String::from_utf8_lossy($name);
                    format!("{shown}: expected NVRTC 12 or newer, but it has no {name}")
                })?
            };
        }
        let get_version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
            function!(b"nvrtcVersion");
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two integers to write to.
        unsafe { get_version(&raw mut major, &raw mut minor) };
        if major < 12 {
            bail!("{shown}: expected NVRTC 12 or newer, found {major}.{minor}");
        }
        let count: unsafe extern "C" fn(*mut c_int) -> c_int =
            function!(b"nvrtcGetNumSupportedArchs");
        let list: unsafe extern "C" fn(*mut c_int) -> c_int = function!(b"nvrtcGetSupportedArchs");
        let mut number = 0;
        // SAFETY: an integer to write to.
        unsafe { count(&raw mut number) };
        let mut architectures = vec![0 as c_int; usize::try_from(number).unwrap_or(0)];
        // SAFETY: as many integers as it said.
        unsafe { list(architectures.as_mut_ptr()) };
        let architectures = architectures
            .into_iter()
            .filter_map(|a| u32::try_from(a).ok());
        Ok(Nvrtc {
            functions: Functions {
                create: function!(b"nvrtcCreateProgram"),
                compile: function!(b"nvrtcCompileProgram"),
                destroy: function!(b"nvrtcDestroyProgram"),
                ptx: (function!(b"nvrtcGetPTXSize"), function!(b"nvrtcGetPTX")),
                cubin: (function!(b"nvrtcGetCUBINSize"), function!(b"nvrtcGetCUBIN")),
                log: (
                    function!(b"nvrtcGetProgramLogSize"),
                    function!(b"nvrtcGetProgramLog"),
                ),
                error: function!(b"nvrtcGetErrorString"),
            },
            version: (major, minor),
            path: path.to_owned(),
            architectures: architectures.collect(),
            _library: library,
            _builtins: builtins,
        })
    }

    /// Compiles `text`, called `name` in messages, with `options` beside the target's.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn compile(
        &self,
        (name, text): (&str, &str),
        target: Target,
        options: &[String],
    ) -> anyhow::Result<Vec<u8>> {
        let c_text = CString::new(text).context("a kernel's text holds a zero byte")?;
        let c_name = CString::new(name).context("a kernel's name holds a zero byte")?;
        let mut all = vec![target.option()];
        all.extend_from_slice(options);
        let all: Vec<CString> = all
            .into_iter()
            .map(CString::new)
            .collect::<Result<_, _>>()
            .context("an option holds a zero byte")?;
        let pointers: Vec<*const c_char> = all.iter().map(|o| o.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: both strings end in zero and outlive the program, which is destroyed below.
        let code = unsafe {
            (self.functions.create)(
                &raw mut program,
                c_text.as_ptr(),
                c_name.as_ptr(),
                0,
                none,
                none,
            )
        };
        self.check(code, name)?;
        let count = c_int::try_from(pointers.len()).expect("a few options");
        // SAFETY: `program` is live; the options end in zero and outlive the call.
        let code = unsafe { (self.functions.compile)(program, count, pointers.as_ptr()) };
        let image = if code == 0 {
            let (get, fill) = match target {
                Target::Ptx(_) => self.functions.ptx,
                Target::Cubin(_) => self.functions.cubin,
            };
            self.text(program, get, fill, name)
        } else {
            let (get, fill) = self.functions.log;
            let log = self.text(program, get, fill, name).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let log = log.trim_end_matches('\0').trim();
            self.check(code, name)
                .with_context(|| log.to_owned())
                .map(|()| Vec::new())
        };
        // SAFETY: `program` is live and not used afterwards.
        unsafe { (self.functions.destroy)(&raw mut program) };
        image
    }

    fn text(&self, program: Program, get: Get, fill: Fill, name: &str) -> anyhow::Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: the program is live; a size to write to.
        self.check(unsafe { get(program, &raw mut size) }, name)?;
        let mut bytes = vec![0u8; size];
        // SAFETY: as many bytes as it said.
        self.check(unsafe { fill(program, bytes.as_mut_ptr().cast()) }, name)?;
        Ok(bytes)
    }

    fn check(&self, code: c_int, name: &str) -> anyhow::Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the library returns a static string for any number.
        let text = unsafe { CStr::from_ptr((self.functions.error)(code)) };
        let (major, minor) = self.version;
        bail!(
            "{name} does not compile with NVRTC {major}.{minor} ({}): {}",
            self.path.display(),
            text.to_string_lossy()
        )
    }
}

/// Version numbers in a file name after `stem`, or none if it is another file.
fn numbers(name: &str, stem: &str) -> Option<Vec<u32>> {
    let rest = name.strip_prefix(stem)?;
    rest.split('.').map(|n| n.parse().ok()).collect()
}

/// The file in `folder` named `stem` with the highest version.
fn newest(folder: &Path, stem: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let versions = entries.filter_map(|entry| {
        let name = entry.file_name();
        Some((numbers(name.to_str()?, stem)?, entry.path()))
    });
    versions.max().map(|(_, path)| path)
}

fn builtins_in(folder: &Path) -> Option<PathBuf> {
    newest(folder, "libnvrtc-builtins.so.")
}

/// The library in a folder, or where a toolkit or a wheel under it has it.
fn inside(folder: &Path) -> Option<PathBuf> {
    let places = [
        "",
        "lib",
        "lib64",
        "targets/x86_64-linux/lib",
        "nvidia/cu13/lib",
        "nvidia/cuda_nvrtc/lib",
    ];
    let mut places = places.iter().map(|place| folder.join(place));
    places.find_map(|place| newest(&place, "libnvrtc.so."))
}

/// Where toolkits and Python environments are.
fn folders() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    // The dynamic loader would look here too, but without telling where it found the library, beside
    // which its built-ins and ptxas are.
    let loader = std::env::var_os("LD_LIBRARY_PATH");
    let mut found: Vec<PathBuf> = loader.iter().flat_map(std::env::split_paths).collect();
    found.retain(|folder| !folder.as_os_str().is_empty());
    let toolkits = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"];
    found.extend(toolkits.into_iter().filter_map(variable));
    found.extend(["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from));
    found.extend(
        std::env::var_os("PYTHONPATH")
            .iter()
            .flat_map(std::env::split_paths),
    );
    let roots = [
        variable("VIRTUAL_ENV"),
        variable("CONDA_PREFIX"),
        variable("HOME").map(|home| home.join(".local")),
        Some("/usr/local".into()),
        Some("/usr".into()),
    ];
    for lib in roots.into_iter().flatten().map(|root| root.join("lib")) {
        let Ok(entries) = std::fs::read_dir(&lib) else {
            continue;
        };
        let mut pythons: Vec<PathBuf> = entries
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with("python3"))
            .map(|e| e.path())
            .collect();
        pythons.sort();
        for python in pythons.into_iter().rev() {
            found.extend(["site-packages", "dist-packages"].map(|p| python.join(p)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_library_of_a_folder_is_taken_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "libnvrtc.so.12",
            "libnvrtc.so.13",
            "libnvrtc.so",
            "libnvrtc.alt.so.13",
            "libnvrtc-builtins.so.13.5",
        ];
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = |path: Option<PathBuf>| path.map(|p| p.file_name().unwrap().to_owned());
        assert_eq!(found(inside(folder.path())).unwrap(), "libnvrtc.so.13");
        assert_eq!(
            found(builtins_in(folder.path())).unwrap(),
            "libnvrtc-builtins.so.13.5"
        );
    }

    #[test]
    fn a_file_that_is_no_library_is_refused_with_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Nvrtc::load(file.path()).err().unwrap().to_string();
        assert!(error.contains(&*file.path().to_string_lossy()), "{error}");
    }
}
