//! The driver API as programs use it: through `cudarc`, unchanged, and for the rest through its raw bindings.

mod support;

use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, LaunchConfig, PushKernelArg,
};
use support::{can_compile, compile, on_softcuda};

const KERNELS: &str = r#"
__constant__ float coefficients[4];
__device__ int counter = 7;

extern "C" __global__ void fill(float *x, float value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = value;
}

extern "C" __global__ void add(float *y, const float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += x[i];
}

extern "C" __global__ void polynomial(float *y, const float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = coefficients[0] + coefficients[1] * x[i] + coefficients[2] * x[i] * x[i];
}

extern "C" __global__ void count() { atomicAdd(&counter, 1); }

extern "C" __global__ void reverse(int *x) {
    extern __shared__ int buffer[];
    buffer[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = buffer[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void wild(int *x) { x[1 << 20] = 1; }
"#;

struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
}

impl Gpu {
    fn new() -> Gpu {
        let context = CudaContext::new(0).unwrap();
        let module = context
            .load_module(compile("kernels.cu", KERNELS, &[]))
            .unwrap();
        Gpu {
            stream: context.default_stream(),
            module,
            context,
        }
    }

    fn function(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).unwrap()
    }
}

fn threads(n: usize) -> LaunchConfig {
    LaunchConfig::for_num_elems(n as u32)
}

#[test]
fn a_context_tells_what_an_h100_is() {
    let test = "a_context_tells_what_an_h100_is";
    on_softcuda(test, &[], || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(CudaContext::device_count().unwrap(), 1);
        assert_eq!(context.name().unwrap(), "NVIDIA H100 80GB HBM3");
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        assert_eq!(context.total_mem().unwrap(), 80 << 30);
        let attribute = |a| context.attribute(a).unwrap();
        use sys::CUdevice_attribute as A;
        assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
        assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
        assert_eq!(
            attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
            227 * 1024
        );
        assert!(CudaContext::new(1).is_err());
    })
    .silent();
}

#[test]
fn bytes_survive_every_way_of_copying() {
    on_softcuda("bytes_survive_every_way_of_copying", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let host: Vec<u32> = (0..10_000).collect();
        let a = stream.clone_htod(&host).unwrap();
        let b = stream.clone_dtod(&a).unwrap();
        assert!(stream.clone_dtoh(&b).unwrap() == host);
        let half = stream.clone_dtoh(&b.slice(5_000..)).unwrap();
        assert_eq!(half, host[5_000..]);
        let zeros = stream.alloc_zeros::<u8>(777).unwrap();
        assert_eq!(stream.clone_dtoh(&zeros).unwrap(), [0; 777]);
        // SAFETY: written before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(host.len()).unwrap() };
        stream.memcpy_dtoh(&a, &mut pinned).unwrap();
        assert_eq!(pinned.as_slice().unwrap(), host);
    })
    .silent();
}

#[test]
fn a_kernel_adds_and_a_constant_and_a_global_variable_are_reached_by_name() {
    let test = "a_kernel_adds_and_a_constant_and_a_global_variable_are_reached_by_name";
    if !can_compile(test) {
        return;
    }
    on_softcuda(test, &[], || {
        let gpu = Gpu::new();
        let n = 1000;
        let x = gpu
            .stream
            .clone_htod(&(0..n).map(|i| i as f32).collect::<Vec<_>>())
            .unwrap();
        let mut y = gpu.stream.alloc_zeros::<f32>(n).unwrap();
        let add = gpu.function("add");
        // SAFETY: the kernel's parameters, in order; `y` and `x` have `n` elements.
        unsafe {
            gpu.stream
                .launch_builder(&add)
                .arg(&mut y)
                .arg(&x)
                .arg(&(n as i32))
                .launch(threads(n))
        }
        .unwrap();
        let sums = gpu.stream.clone_dtoh(&y).unwrap();
        assert!(sums.iter().enumerate().all(|(i, &sum)| sum == i as f32));

        let mut symbol = gpu.module.get_global("coefficients", &gpu.stream).unwrap();
        assert_eq!(symbol.len(), 16);
        // SAFETY: the variable is an array of four floats.
        let mut coefficients = unsafe { symbol.transmute_mut::<f32>(4).unwrap() };
        gpu.stream
            .memcpy_htod(&[1.0, 2.0, 3.0, 0.0], &mut coefficients)
            .unwrap();
        let polynomial = gpu.function("polynomial");
        // SAFETY: as above.
        unsafe {
            gpu.stream
                .launch_builder(&polynomial)
                .arg(&mut y)
                .arg(&x)
                .arg(&(n as i32))
                .launch(threads(n))
        }
        .unwrap();
        let values = gpu.stream.clone_dtoh(&y).unwrap();
        for (i, value) in values.iter().enumerate().take(100) {
            let x = i as f32;
            assert_eq!(*value, 1.0 + 2.0 * x + 3.0 * x * x);
        }

        let count = gpu.function("count");
        // SAFETY: the kernel has no parameters.
        unsafe { gpu.stream.launch_builder(&count).launch(threads(1024)) }.unwrap();
        let symbol = gpu.module.get_global("counter", &gpu.stream).unwrap();
        // SAFETY: the variable is an int.
        let counter = unsafe { symbol.transmute::<i32>(1).unwrap() };
        assert_eq!(gpu.stream.clone_dtoh(&counter).unwrap(), [7 + 1024]);
    })
    .silent();
}

#[test]
fn dynamic_shared_memory_and_function_attributes_are_there() {
    let test = "dynamic_shared_memory_and_function_attributes_are_there";
    if !can_compile(test) {
        return;
    }
    on_softcuda(test, &[], || {
        let gpu = Gpu::new();
        let reverse = gpu.function("reverse");
        let mut x = gpu
            .stream
            .clone_htod(&(0..256).collect::<Vec<i32>>())
            .unwrap();
        let shape = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (256, 1, 1),
            shared_mem_bytes: 1024,
        };
        // SAFETY: `x` has as many elements as the block has threads, the shared buffer too.
        unsafe {
            gpu.stream
                .launch_builder(&reverse)
                .arg(&mut x)
                .launch(shape)
        }
        .unwrap();
        assert!(gpu.stream.clone_dtoh(&x).unwrap() == (0..256).rev().collect::<Vec<i32>>());
        assert_eq!(reverse.max_threads_per_block().unwrap(), 1024);
        assert_eq!(reverse.shared_size_bytes().unwrap(), 0);
        assert!(reverse.num_regs().unwrap() > 0);
        assert_eq!(reverse.binary_version().unwrap(), 90);
        extern "C" fn none(_: std::ffi::c_int) -> usize {
            0
        }
        let (grid, block) = reverse
            .occupancy_max_potential_block_size(none, 0, 0, None)
            .unwrap();
        assert_eq!((grid, block), (264, 1024));

        let too_much = LaunchConfig {
            shared_mem_bytes: 100_000,
            ..shape
        };
        // SAFETY: the launch is refused.
        let refused = unsafe {
            gpu.stream
                .launch_builder(&reverse)
                .arg(&mut x)
                .launch(too_much)
        };
        assert_eq!(refused.unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
        use sys::CUfunction_attribute_enum as F;
        let most = F::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        reverse.set_attribute(most, 100_000).unwrap();
        // SAFETY: as the first launch.
        unsafe {
            gpu.stream
                .launch_builder(&reverse)
                .arg(&mut x)
                .launch(too_much)
        }
        .unwrap();
        assert!(reverse.set_attribute(most, 300_000).is_err());
    })
    .says(&["launch of `reverse`: 100000 bytes of dynamic shared memory"]);
}

#[test]
fn streams_joined_by_events_are_ordered_and_events_tell_time() {
    let test = "streams_joined_by_events_are_ordered_and_events_tell_time";
    if !can_compile(test) {
        return;
    }
    on_softcuda(test, &[], || {
        let gpu = Gpu::new();
        let n = 4096;
        let (fill, add) = (gpu.function("fill"), gpu.function("add"));
        let x = gpu.stream.clone_htod(&vec![1.0f32; n]).unwrap();
        let mut y = gpu.stream.alloc_zeros::<f32>(n).unwrap();
        let timing = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = gpu.stream.record_event(timing).unwrap();
        let other = gpu.stream.fork().unwrap();
        // SAFETY: the kernels' parameters; cudarc makes the streams wait for each other.
        unsafe {
            other
                .launch_builder(&fill)
                .arg(&mut y)
                .arg(&2.0f32)
                .arg(&(n as i32))
                .launch(threads(n))
                .unwrap();
            gpu.stream
                .launch_builder(&add)
                .arg(&mut y)
                .arg(&x)
                .arg(&(n as i32))
                .launch(threads(n))
                .unwrap();
        }
        gpu.stream.join(&other).unwrap();
        let end = gpu.stream.record_event(timing).unwrap();
        assert!(start.elapsed_ms(&end).unwrap() > 0.0);
        assert!(gpu.stream.clone_dtoh(&y).unwrap() == vec![3.0; n]);
    })
    .silent();
}

/// Two kernels on two streams write one buffer; `wait` says whether the second stream waits for the first.
fn two_streams(wait: bool) {
    let gpu = Gpu::new();
    // SAFETY: the streams are ordered by hand below, or on purpose not.
    unsafe { gpu.context.disable_event_tracking() };
    let n = 1024;
    let fill = gpu.function("fill");
    let mut x = gpu.stream.alloc_zeros::<f32>(n).unwrap();
    let (first, second) = (
        gpu.context.new_stream().unwrap(),
        gpu.context.new_stream().unwrap(),
    );
    gpu.context.synchronize().unwrap();
    // SAFETY: the kernel's parameters.
    unsafe {
        first
            .launch_builder(&fill)
            .arg(&mut x)
            .arg(&1.0f32)
            .arg(&(n as i32))
            .launch(threads(n))
            .unwrap();
        if wait {
            second.join(&first).unwrap();
        }
        second
            .launch_builder(&fill)
            .arg(&mut x)
            .arg(&2.0f32)
            .arg(&(n as i32))
            .launch(threads(n))
            .unwrap();
    }
    let outcome = gpu.context.synchronize();
    if wait {
        outcome.unwrap();
        assert!(gpu.stream.clone_dtoh(&x).unwrap() == vec![2.0; n]);
    } else {
        assert_eq!(outcome.unwrap_err().0, CUresult::CUDA_ERROR_LAUNCH_FAILED);
        std::process::exit(0);
    }
}

#[test]
fn a_missing_event_between_two_streams_is_found_and_names_both_launches() {
    let test = "a_missing_event_between_two_streams_is_found_and_names_both_launches";
    if !can_compile(test) {
        return;
    }
    on_softcuda(test, &[], || two_streams(false)).says(&[
        "race between streams",
        "earlier  kernel `fill` (launch 1) on stream",
        "later    kernel `fill` (launch 2) on stream",
        "bytes 0..4096 of `cuMemAllocAsync`",
    ]);
}

#[test]
fn an_event_between_two_streams_keeps_softcuda_silent() {
    let test = "an_event_between_two_streams_keeps_softcuda_silent";
    if !can_compile(test) {
        return;
    }
    on_softcuda(test, &[], || two_streams(true)).silent();
}

#[test]
fn a_captured_graph_replays_and_takes_new_parameters() {
    let test = "a_captured_graph_replays_and_takes_new_parameters";
    if !can_compile(test) {
        return;
    }
    on_softcuda(test, &[], || {
        let gpu = Gpu::new();
        // SAFETY: one stream does all.
        unsafe { gpu.context.disable_event_tracking() };
        let n = 512;
        let (fill, add) = (gpu.function("fill"), gpu.function("add"));
        let stream = gpu.context.new_stream().unwrap();
        let mut x = stream.alloc_zeros::<f32>(n).unwrap();
        let mut y = stream.alloc_zeros::<f32>(n).unwrap();
        stream.synchronize().unwrap();
        stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        // SAFETY: the kernels' parameters.
        unsafe {
            stream
                .launch_builder(&fill)
                .arg(&mut x)
                .arg(&1.5f32)
                .arg(&(n as i32))
                .launch(threads(n))
                .unwrap();
            stream
                .launch_builder(&add)
                .arg(&mut y)
                .arg(&x)
                .arg(&(n as i32))
                .launch(threads(n))
                .unwrap();
        }
        let graph = stream
            .end_capture(sys::CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        assert!(stream.clone_dtoh(&y).unwrap() == vec![0.0; n]);
        for _ in 0..3 {
            graph.launch().unwrap();
        }
        assert!(stream.clone_dtoh(&y).unwrap() == vec![4.5; n]);

        // SAFETY: raw handles of live objects; arrays as large as said.
        unsafe {
            let (mut nodes, mut count) = ([std::ptr::null_mut(); 8], 8);
            sys::cuGraphGetNodes(graph.cu_graph(), nodes.as_mut_ptr(), &mut count)
                .result()
                .unwrap();
            assert_eq!(count, 2);
            let mut parameters = std::mem::zeroed::<sys::CUDA_KERNEL_NODE_PARAMS>();
            sys::cuGraphKernelNodeGetParams_v2(nodes[0], &mut parameters)
                .result()
                .unwrap();
            let mut value = 10.0f32;
            *parameters.kernelParams.add(1) = (&raw mut value).cast();
            sys::cuGraphExecKernelNodeSetParams_v2(graph.cu_graph_exec(), nodes[0], &parameters)
                .result()
                .unwrap();
        }
        graph.launch().unwrap();
        assert!(stream.clone_dtoh(&y).unwrap() == vec![14.5; n]);
    })
    .silent();
}

/// Captures two kernels on two branches of a graph; `apart` says whether they write different halves of a
/// buffer or all of it both.
fn two_branches(apart: bool) {
    let gpu = Gpu::new();
    // SAFETY: the branches are ordered by hand below.
    unsafe { gpu.context.disable_event_tracking() };
    let n = 1024i32;
    let fill = gpu.function("fill");
    let (main, side) = (
        gpu.context.new_stream().unwrap(),
        gpu.context.new_stream().unwrap(),
    );
    let mut x = main.alloc_zeros::<f32>(2 * n as usize).unwrap();
    gpu.context.synchronize().unwrap();
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    main.begin_capture(mode).unwrap();
    side.join(&main).unwrap();
    let (mut low, mut high) = x.split_at_mut(n as usize);
    // SAFETY: the kernel's parameters.
    unsafe {
        let shape = threads(n as usize);
        main.launch_builder(&fill)
            .arg(&mut low)
            .arg(&1.0f32)
            .arg(&n)
            .launch(shape)
            .unwrap();
        let second = if apart { &mut high } else { &mut low };
        side.launch_builder(&fill)
            .arg(second)
            .arg(&2.0f32)
            .arg(&n)
            .launch(shape)
            .unwrap();
    }
    main.join(&side).unwrap();
    let graph = main
        .end_capture(sys::CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    graph.launch().unwrap();
    let outcome = main.synchronize();
    if apart {
        outcome.unwrap();
        let values = main.clone_dtoh(&x).unwrap();
        assert!(values[..1024] == [1.0; 1024] && values[1024..] == [2.0; 1024]);
    } else {
        assert_eq!(outcome.unwrap_err().0, CUresult::CUDA_ERROR_LAUNCH_FAILED);
        std::process::exit(0);
    }
}

#[test]
fn branches_of_a_graph_that_write_the_same_memory_are_a_race() {
    let test = "branches_of_a_graph_that_write_the_same_memory_are_a_race";
    if !can_compile(test) {
        return;
    }
    let words = [
        "race between streams",
        "kernel `fill` (launch 2)",
        ", graph ",
    ];
    on_softcuda(test, &[], || two_branches(false)).says(&words);
}

#[test]
fn branches_of_a_graph_may_write_halves_of_one_buffer() {
    let test = "branches_of_a_graph_may_write_halves_of_one_buffer";
    if !can_compile(test) {
        return;
    }
    on_softcuda(test, &[], || two_branches(true)).silent();
}

#[test]
fn a_fault_sticks_to_the_context_and_is_explained_with_its_line() {
    let test = "a_fault_sticks_to_the_context_and_is_explained_with_its_line";
    if !can_compile(test) {
        return;
    }
    on_softcuda(test, &[], || {
        let gpu = Gpu::new();
        let wild = gpu.function("wild");
        let mut x = gpu.stream.alloc_zeros::<i32>(16).unwrap();
        // SAFETY: not at all; that is the test.
        unsafe {
            gpu.stream
                .launch_builder(&wild)
                .arg(&mut x)
                .launch(threads(1))
        }
        .unwrap();
        for _ in 0..2 {
            let error = gpu.stream.synchronize().unwrap_err();
            assert_eq!(error.0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
            assert!(format!("{error}").contains("an illegal memory access was encountered"));
        }
        assert!(gpu.stream.alloc_zeros::<i32>(1).is_err());
        // SAFETY: device 0 exists.
        unsafe { sys::cuDevicePrimaryCtxReset_v2(0).result().unwrap() };
        assert!(gpu.stream.alloc_zeros::<i32>(1).is_ok());
        std::process::exit(0);
    })
    .says(&["kernel `wild`", "kernels.cu:29", "cuMemAllocAsync"]);
}

#[test]
fn a_ptx_newer_than_the_driver_is_refused_as_such() {
    let test = "a_ptx_newer_than_the_driver_is_refused_as_such";
    if !can_compile(test) {
        return;
    }
    on_softcuda(test, &[("SOFTCUDA_DRIVER_VERSION", "12.4")], || {
        let context = CudaContext::new(0).unwrap();
        let error = context
            .load_module(compile("kernels.cu", KERNELS, &[]))
            .err()
            .unwrap();
        assert_eq!(error.0, CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    })
    .says(&["is newer than the newest that this driver accepts, 8.4"]);
}

#[test]
fn memory_has_the_limit_that_was_asked_for() {
    on_softcuda(
        "memory_has_the_limit_that_was_asked_for",
        &[("SOFTCUDA_MEMORY", "64M")],
        || {
            let context = CudaContext::new(0).unwrap();
            let stream = context.default_stream();
            assert_eq!(context.mem_get_info().unwrap(), (64 << 20, 64 << 20));
            let held = stream.alloc_zeros::<u8>(48 << 20).unwrap();
            let error = stream.alloc_zeros::<u8>(32 << 20).err().unwrap();
            assert_eq!(error.0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
            drop(held);
            assert!(stream.alloc_zeros::<u8>(32 << 20).is_ok());
        },
    )
    .silent();
}

#[test]
fn planted_failures_come_where_they_were_asked_for() {
    let test = "planted_failures_come_where_they_were_asked_for";
    if !can_compile(test) {
        return;
    }
    let plan = "alloc@2,kernel:add@2,cuStreamCreate:OUT_OF_MEMORY";
    on_softcuda(test, &[("SOFTCUDA_FAIL", plan)], || {
        let gpu = Gpu::new();
        let n = 32;
        let mut x = gpu.stream.alloc_zeros::<f32>(n).unwrap();
        let error = gpu.stream.alloc_zeros::<f32>(n).err().unwrap();
        assert_eq!(error.0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert!(gpu.context.new_stream().is_err());
        let y = gpu.stream.alloc_zeros::<f32>(n).unwrap();
        let add = gpu.function("add");
        for expected in [true, false] {
            // SAFETY: the kernel's parameters.
            let launched = unsafe {
                gpu.stream
                    .launch_builder(&add)
                    .arg(&mut x)
                    .arg(&y)
                    .arg(&(n as i32))
                    .launch(threads(n))
            };
            // cudarc records an event after the launch, which already meets the fault.
            assert_eq!(
                launched.is_ok() && gpu.stream.synchronize().is_ok(),
                expected
            );
        }
        std::process::exit(0);
    })
    .says(&[
        "planted failure of allocation 2",
        "planted fault in kernel `add` (launch 2)",
    ]);
}

#[test]
fn no_device_and_bad_settings_are_told_apart() {
    let test = "no_device_and_bad_settings_are_told_apart";
    on_softcuda(test, &[("SOFTCUDA_FAIL", "no-device")], || {
        let code = CudaContext::new(0).err().map(|error| error.0);
        let bad = std::env::var("SOFTCUDA_DEVICE").is_ok();
        assert_eq!(
            code,
            Some(if bad {
                CUresult::CUDA_ERROR_INVALID_VALUE
            } else {
                CUresult::CUDA_ERROR_NO_DEVICE
            })
        );
    })
    .silent();
    on_softcuda(test, &[("SOFTCUDA_DEVICE", "sm_42")], || {})
        .says(&["softcuda: SOFTCUDA_DEVICE is \"sm_42\", but must be one of sm_75"]);
}

#[test]
fn memory_that_is_never_freed_is_a_leak() {
    on_softcuda("memory_that_is_never_freed_is_a_leak", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        std::mem::forget(stream.alloc_zeros::<u8>(1234).unwrap());
        drop(stream.alloc_zeros::<u8>(4321).unwrap());
    })
    .says(&["leak: 1 allocations of 1234 bytes were never freed"]);
}

#[test]
fn hostile_arguments_are_errors_and_never_crashes() {
    on_softcuda(
        "hostile_arguments_are_errors_and_never_crashes",
        &[],
        || {
            let context = CudaContext::new(0).unwrap();
            use std::ptr::null_mut as null;
            let wrong = 0xdead_beef_usize as *mut std::ffi::c_void;
            // SAFETY: null pointers and invented handles, which the driver must find out.
            unsafe {
                let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
                let handle = CUresult::CUDA_ERROR_INVALID_HANDLE;
                assert_eq!(sys::cuDeviceGet(null(), 0), invalid);
                assert_eq!(sys::cuMemAlloc_v2(null(), 16), invalid);
                let mut address = 0;
                assert_eq!(sys::cuMemAlloc_v2(&mut address, 0), invalid);
                assert_eq!(
                    sys::cuMemAlloc_v2(&mut address, usize::MAX),
                    CUresult::CUDA_ERROR_OUT_OF_MEMORY
                );
                assert_eq!(sys::cuMemFree_v2(0x1234), invalid);
                assert_eq!(sys::cuMemFree_v2(0), CUresult::CUDA_SUCCESS);
                assert_eq!(
                    sys::cuMemcpyHtoD_v2(0x1234, [0u8; 4].as_ptr().cast(), 4),
                    invalid
                );
                assert_eq!(sys::cuMemcpyHtoD_v2(0, std::ptr::null(), 4), invalid);
                assert_eq!(sys::cuMemsetD8_v2(u64::MAX, 0, usize::MAX), invalid);
                assert_eq!(sys::cuStreamSynchronize(wrong as _), handle);
                assert_eq!(sys::cuEventRecord(wrong as _, null()), handle);
                assert_eq!(sys::cuModuleLoadData(null(), std::ptr::null()), invalid);
                let mut module = null();
                assert_eq!(
                    sys::cuModuleLoadData(&mut module, c"not PTX".as_ptr().cast()),
                    CUresult::CUDA_ERROR_INVALID_IMAGE
                );
                assert_eq!(
                    sys::cuModuleGetFunction(null(), wrong as _, c"f".as_ptr()),
                    handle
                );
                let launch =
                    sys::cuLaunchKernel(wrong as _, 1, 1, 1, 1, 1, 1, 0, null(), null(), null());
                assert_eq!(launch, handle);
                assert_eq!(sys::cuGraphLaunch(wrong as _, null()), invalid);
                assert_eq!(sys::cuStreamEndCapture(null(), null()), invalid);
                let mut name = std::ptr::null();
                assert_eq!(
                    sys::cuGetErrorName(CUresult::CUDA_ERROR_NOT_READY, &mut name),
                    CUresult::CUDA_SUCCESS
                );
                assert_eq!(std::ffi::CStr::from_ptr(name), c"CUDA_ERROR_NOT_READY");
                let array = sys::cuArrayDestroy(null());
                assert_eq!(array, CUresult::CUDA_ERROR_NOT_SUPPORTED);
                assert_eq!(
                    sys::cuArrayDestroy(null()),
                    CUresult::CUDA_ERROR_NOT_SUPPORTED
                );
            }
            drop(context);
        },
    )
    .says(&["cuArrayDestroy is not supported"]);
}

#[test]
fn layouts_are_those_of_the_bindings() {
    use softcuda::driver::types;
    use std::mem::size_of;
    assert_eq!(
        size_of::<types::Memcpy2d>(),
        size_of::<sys::CUDA_MEMCPY2D>()
    );
    assert_eq!(
        size_of::<types::Memcpy3d>(),
        size_of::<sys::CUDA_MEMCPY3D>()
    );
    assert_eq!(
        size_of::<types::KernelNodeParams2>(),
        size_of::<sys::CUDA_KERNEL_NODE_PARAMS>()
    );
    assert_eq!(
        size_of::<types::MemsetNodeParams>(),
        size_of::<sys::CUDA_MEMSET_NODE_PARAMS>()
    );
    assert_eq!(
        size_of::<types::HostNodeParams>(),
        size_of::<sys::CUDA_HOST_NODE_PARAMS>()
    );
    assert_eq!(
        size_of::<types::MemAllocNodeParams>(),
        size_of::<sys::CUDA_MEM_ALLOC_NODE_PARAMS>()
    );
    assert_eq!(
        size_of::<types::InstantiateParams>(),
        size_of::<sys::CUDA_GRAPH_INSTANTIATE_PARAMS>()
    );
    assert_eq!(
        size_of::<types::UpdateResultInfo>(),
        size_of::<sys::CUgraphExecUpdateResultInfo>()
    );
    assert_eq!(
        size_of::<types::LaunchAttribute>(),
        size_of::<sys::CUlaunchAttribute>()
    );
    assert_eq!(
        size_of::<types::LaunchConfig>(),
        size_of::<sys::CUlaunchConfig>()
    );
    assert_eq!(
        size_of::<types::MemPoolProps>(),
        size_of::<sys::CUmemPoolProps>()
    );
    assert_eq!(
        size_of::<types::DeviceProperties>(),
        size_of::<sys::CUdevprop>()
    );
}
