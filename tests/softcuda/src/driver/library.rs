//! The entry of the library: initialisation, versions, and the search for functions by name.

use std::ffi::{c_char, c_int, c_void};

use super::entry::{Entry, Outcome, entries, put, put_if_wanted, say, text};
use super::errors::Code;
use super::{settings, state};

entries! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        initialise()
    }

    fn cuDriverGetVersion(version: *mut c_int) {
        let settings = settings::settings().as_ref().map_err(|_| Code::INVALID_VALUE)?;
        put(version, settings.driver_version)
    }

    fn cuGetProcAddress(symbol: *const c_char, function: *mut *const (), version: c_int, flags: u64) {
        let found = find(&text(symbol)?, version);
        put(function, found.map_or(std::ptr::null(), |entry| address_for(entry, flags)))?;
        found.map(drop).map_err(|_| Code::NOT_FOUND)
    }

    fn cuGetProcAddress_v2(
        symbol: *const c_char,
        function: *mut *const (),
        version: c_int,
        flags: u64,
        status: *mut u32,
    ) {
        let found = find(&text(symbol)?, version);
        put(function, found.map_or(std::ptr::null(), |entry| address_for(entry, flags)))?;
        put_if_wanted(status, match found {
            Ok(_) => 0,
            Err(Missing::Unknown) => 1,
            Err(Missing::TooNew) => 2,
        });
        found.map(drop).map_err(|_| Code::NOT_FOUND)
    }

    /// The undocumented tables of the driver's own libraries. NVRTC and others ask and do without, so this
    /// one refuses in silence.
    fn cuGetExportTable(table: *mut *const c_void, _identifier: *const c_void) {
        put_if_wanted(table, std::ptr::null());
        Err(Code::NOT_SUPPORTED)
    }

    fn cuProfilerStart() {
        Ok(())
    }

    fn cuProfilerStop() {
        Ok(())
    }

    fn cuProfilerInitialize(_config: *const c_char, _output: *const c_char, _mode: u32) {
        super::unsupported::refuse("cuProfilerInitialize")
    }
}

/// Reads the settings, says what is wrong with them, and makes the driver.
fn initialise() -> Outcome {
    let settings = match settings::settings() {
        Ok(settings) => settings,
        Err(sentence) => {
            say(sentence);
            return Err(Code::INVALID_VALUE);
        }
    };
    if settings.failures.no_device {
        return Err(Code::NO_DEVICE);
    }
    if state::start(settings) {
        settings::unknown_variables()
            .iter()
            .for_each(|sentence| say(sentence));
        super::profile::report_at_exit();
    }
    Ok(())
}

/// Why `cuGetProcAddress` finds nothing.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Missing {
    /// No version of the function exists.
    Unknown,
    /// All versions are newer than the caller asks for.
    TooNew,
}

/// The CUDA version that brought the numbered variants which are not as old as 64-bit CUDA itself.
const INTRODUCED: &[(&str, c_int)] = &[
    ("cuCtxCreate_v3", 11040),
    ("cuCtxCreate_v4", 12050),
    ("cuCtxGetDevice_v2", 13000),
    ("cuCtxSynchronize_v2", 13000),
    ("cuDeviceGetUuid_v2", 11040),
    ("cuDevicePrimaryCtxRelease_v2", 11000),
    ("cuDevicePrimaryCtxReset_v2", 11000),
    ("cuDevicePrimaryCtxSetFlags_v2", 11000),
    ("cuEventElapsedTime_v2", 12080),
    ("cuGetProcAddress_v2", 12000),
    ("cuGraphAddDependencies_v2", 12030),
    ("cuGraphAddKernelNode_v2", 12000),
    ("cuGraphAddNode_v2", 12030),
    ("cuGraphAddNode_v3", 13030),
    ("cuGraphExecKernelNodeSetParams_v2", 12000),
    ("cuGraphExecUpdate_v2", 12000),
    ("cuGraphGetEdges_v2", 12030),
    ("cuGraphInstantiate_v2", 11000),
    ("cuGraphKernelNodeGetParams_v2", 12000),
    ("cuGraphKernelNodeSetParams_v2", 12000),
    ("cuGraphNodeGetDependencies_v2", 12030),
    ("cuGraphNodeGetDependentNodes_v2", 12030),
    ("cuGraphNodeSetParams_v2", 13030),
    ("cuGraphRemoveDependencies_v2", 12030),
    ("cuIpcOpenMemHandle_v2", 11000),
    ("cuLaunchHostFunc_v2", 13020),
    ("cuMemAdvise_v2", 12020),
    ("cuMemPrefetchAsync_v2", 12020),
    ("cuMemcpy3DBatchAsync_v2", 13000),
    ("cuMemcpyBatchAsync_v2", 13000),
    ("cuMulticastBindAddr_v2", 13010),
    ("cuMulticastBindMem_v2", 13010),
    ("cuStreamBatchMemOp_v2", 11070),
    ("cuStreamBeginCapture_v2", 10010),
    ("cuStreamGetCaptureInfo_v2", 11030),
    ("cuStreamGetCaptureInfo_v3", 12030),
    ("cuStreamGetCtx_v2", 12040),
    ("cuStreamUpdateCaptureDependencies_v2", 12030),
    ("cuStreamWaitValue32_v2", 11070),
    ("cuStreamWaitValue64_v2", 11070),
    ("cuStreamWriteValue32_v2", 11070),
    ("cuStreamWriteValue64_v2", 11070),
];

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD_DEFAULT_STREAM: u64 = 2;

/// The function's address, with per-thread default streams where the flags ask for them.
fn address_for(entry: &Entry, flags: u64) -> *const () {
    match &entry.per_thread {
        Some(variant) if flags & PER_THREAD_DEFAULT_STREAM != 0 => variant.0,
        _ => entry.address.0,
    }
}

/// The newest variant of `symbol` that CUDA `version` had. A name that ends in a version is taken literally.
fn find(symbol: &str, version: c_int) -> Result<&'static Entry, Missing> {
    let mut too_new = false;
    for suffix in ["_v4", "_v3", "_v2", ""] {
        let name = format!("{symbol}{suffix}");
        let Some(entry) = entry(&name) else { continue };
        let introduced = INTRODUCED
            .iter()
            .find(|row| row.0 == name)
            .map_or(0, |row| row.1);
        if introduced <= version {
            return Ok(entry);
        }
        too_new = true;
    }
    Err(if too_new {
        Missing::TooNew
    } else {
        Missing::Unknown
    })
}

/// The exported function `name`.
fn entry(name: &str) -> Option<&'static Entry> {
    [
        ENTRIES,
        super::errors::ENTRIES,
        super::device::ENTRIES,
        super::context::ENTRIES,
        super::memory::ENTRIES,
        super::pools::ENTRIES,
        super::pointers::ENTRIES,
        super::copy::ENTRIES,
        super::stream::ENTRIES,
        super::event::ENTRIES,
        super::module::ENTRIES,
        super::function::ENTRIES,
        super::link::ENTRIES,
        super::launch::ENTRIES,
        super::occupancy::ENTRIES,
        super::capture::ENTRIES,
        super::graph::ENTRIES,
        super::graph_nodes::ENTRIES,
        super::graph_params::ENTRIES,
        super::graph_exec::ENTRIES,
        super::unsupported::ENTRIES,
    ]
    .into_iter()
    .flatten()
    .find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_variant_of_the_asked_version_is_found() {
        let found = |symbol, version| find(symbol, version).map(|entry| entry.name);
        assert_eq!(found("cuMemAlloc", 12000), Ok("cuMemAlloc_v2"));
        assert_eq!(found("cuCtxCreate", 11000), Ok("cuCtxCreate_v2"));
        assert_eq!(found("cuCtxCreate", 12060), Ok("cuCtxCreate_v4"));
        assert_eq!(found("cuGetProcAddress", 11030), Ok("cuGetProcAddress"));
        assert_eq!(found("cuNoSuchThing", 12000), Err(Missing::Unknown));
        assert_eq!(found("cuStreamBeginCapture_v2", 9000), Err(Missing::TooNew));
    }

    #[test]
    fn every_introduced_variant_exists() {
        for (name, _) in INTRODUCED {
            assert!(entry(name).is_some(), "{name}");
        }
    }
}
