//! A device in use, before the emulator under the name of a driver: memory, copies, launches, products, and what happens when calls
//! fail. Whatever is asynchronous waits there until it is waited for.

use std::ffi::{CString, c_char};
use std::sync::Mutex;

use harvestd::compute::cuda::cache::Cache;
use harvestd::compute::cuda::device::Memory;
use harvestd::compute::cuda::kernels::act::{Act, kind};
use harvestd::compute::cuda::kernels::{In, Out};
use harvestd::compute::cuda::product::{Product, ProductShape};
use harvestd::compute::cuda::{Device, Fault, Libraries, probe};
use harvestd::compute::model_ops::Activation;
use harvestd::error::{ErrorKind, Result};

use super::harness::{Random, assert_close, built, emulator, wide};

/// Calls are counted and failures are arranged for the whole process.
pub static TURN: Mutex<()> = Mutex::new(());

/// The device of the emulator, open; `None` where there is none.
pub fn open() -> Option<Device> {
    try_open().map(|device| device.unwrap())
}

fn try_open() -> Option<Result<Device>> {
    let folder = built()?;
    emulator()?; // opened under its name, which the driver's users find
    let gpu = probe::probe().unwrap().gpus.remove(0);
    let libraries = Libraries::new(vec![folder.to_owned()], None, None);
    Some(Device::open(&gpu, &libraries, &Cache::new(folder.join("cubins"))))
}

/// The `nth` call from now on fails with a status.
pub fn fail(call: Option<&str>, nth: u64, code: i32) {
    type Fail = unsafe extern "C" fn(*const c_char, u64, i32);
    let name = call.map(|call| CString::new(call).unwrap());
    let name = name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
    // SAFETY: the type is that of the emulator's function, which keeps nothing of the text.
    unsafe { emulator().unwrap().symbol::<Fail>("emulator_fail")(name, nth, code) };
}

fn bytes(bits: &[u16]) -> Vec<u8> {
    bits.iter().flat_map(|b| b.to_le_bytes()).collect()
}

fn halves(memory: &Memory) -> Vec<u16> {
    let bytes = memory.read(0, memory.bytes()).unwrap();
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
}

fn given(device: &Device, bits: &[u16]) -> Memory {
    let memory = device.allocate(bits.len() * 2).unwrap();
    memory.write(0, bytes(bits));
    memory
}

#[test]
fn memory_is_copied_through_two_buffers_and_counted() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(device) = open() else { return };
    assert!(device.name() == "cuda:0" && device.gpu().name.starts_with("Emulator"), "{device:?}");
    let before = device.memory_use();
    assert_eq!(device.allocate(0).unwrap().read(0, 0).unwrap(), Vec::<u8>::new());
    // more than both pinned buffers hold, and no multiple of them
    let data: Vec<u8> = (0..(9 << 20) + 123u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let memory = device.allocate(data.len()).unwrap();
    memory.write(0, data.clone());
    assert_eq!(memory.read(0, data.len()).unwrap(), data);
    assert_eq!(memory.read(5 << 20, 77).unwrap(), data[5 << 20..(5 << 20) + 77]);
    memory.write(1000, vec![9; 10]);
    memory.clear(1003, 2);
    let copy = device.allocate(2000).unwrap();
    copy.copy_from(&memory, 2000);
    let got = copy.read(0, 2000).unwrap();
    assert_eq!((&got[..1000], &got[1000..1010]), (&data[..1000], &[9, 9, 9, 0, 0, 9, 9, 9, 9, 9][..]));
    let during = device.memory_use();
    assert_eq!(during.used - before.used, (data.len() + 2000) as u64);
    drop((memory, copy));
    device.finish().unwrap();
    let after = device.memory_use();
    assert_eq!((after.used, after.peak >= during.used), (before.used, true));
}

#[test]
fn kernels_run_in_the_order_they_were_sent() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(device) = open() else { return };
    let mut random = Random(5);
    let bits = random.halves(4 * 24, 2.0);
    let (x, y) = (given(&device, &bits), device.allocate(bits.len() * 2).unwrap());
    let relu = |from: &Memory, to: &Memory| {
        let act = Act {
            gate: In::at(from.address()),
            up: In::default(),
            y: Out::at(to.address()),
            n: 4,
            m: 24,
            stride: 24,
            kind: kind(Activation::Relu),
        };
        device.launch(&act.launch());
    };
    let seconds = device.timed(|| relu(&x, &y)).unwrap();
    assert!(seconds > 0.0);
    // what is let go after a launch is freed after it
    let passing = given(&device, &bits);
    relu(&passing, &y);
    drop(passing);
    x.write(0, bytes(&random.halves(bits.len(), 2.0)));
    let want: Vec<f64> = wide(&bits).iter().map(|v| v.max(0.0)).collect();
    assert_eq!(wide(&halves(&y)), want);
}

#[test]
fn products_by_the_library_and_by_the_plain_kernel() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(device) = open() else { return };
    let mut random = Random(6);
    for (n, n_in, n_out, extra, has_bias, adds) in [
        (1usize, 8usize, 1usize, 0usize, false, false),
        (7, 40, 33, 8, true, false),
        (20, 64, 24, 0, true, true),
        (3, 16, 9, 16, false, true),
    ] {
        let (x_stride, w_stride, y_stride) = (n_in + extra, n_in + 2 * extra, (n_out + extra).next_multiple_of(8));
        let x = random.halves(n * x_stride, 1.0);
        let w = random.halves(n_out * w_stride, 1.0);
        let (bias, start) = (random.halves(n_out, 1.0), random.halves(n * y_stride, 1.0));
        let (d_x, d_w) = (given(&device, &x), given(&device, &w));
        let d_bias = given(&device, &bias);
        let shape = ProductShape { n, n_in, n_out, x_stride, w_stride, y_stride, float_out: false, has_bias, adds };
        let (x, w, bias, was) = (wide(&x), wide(&w), wide(&bias), wide(&start));
        let mut want = was.clone();
        for (i, j) in (0..n).flat_map(|i| (0..n_out).map(move |j| (i, j))) {
            let sum: f64 = (0..n_in).map(|p| x[i * x_stride + p] * w[j * w_stride + p]).sum();
            let at = i * y_stride + j;
            want[at] = sum + if has_bias { bias[j] } else { 0.0 } + if adds { was[at] } else { 0.0 };
        }
        for plainly in [false, true] {
            let y = given(&device, &start);
            let bias = if has_bias { d_bias.address() } else { 0 };
            let product = Product { x: d_x.address(), w: d_w.address(), bias, y: y.address(), shape };
            match plainly {
                true => device.multiply_plainly(product),
                false => device.multiply(product),
            }
            assert_close(&wide(&halves(&y)), &want, 3e-3, &format!("{shape:?}, plainly {plainly}"));
        }
    }
}

#[test]
fn without_room_the_device_goes_on() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(device) = open() else { return };
    let held = device.allocate(100 << 20).unwrap();
    let fault = device.allocate(2 << 30).map(|_| ()).unwrap_err();
    let text = fault.to_string();
    assert!(fault.is_passing() && text.contains("no room for 2048 MiB more: 100 MiB in use here"), "{text}");
    assert_eq!(device.fault(), None);
    // what was freed and is not yet gone counts once it is asked for
    drop(held);
    let _most = device.allocate(900 << 20).unwrap();
    device.finish().unwrap();
}

#[test]
fn a_fault_ends_the_device_and_is_told_to_all_who_ask() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(device) = open() else { return };
    let memory = device.allocate(1024).unwrap();
    for (call, code, part) in [
        ("cuStreamSynchronize", 700, "a kernel failed on cuda:0"),
        ("cuMemcpyHtoDAsync", 214, "had a memory error that it could not correct"),
        ("cuMemAllocAsync", 999, "cuda:0 is lost"),
        ("cuMemsetD8Async", 1, "cuda:0 failed: cuMemsetD8Async says 1 (emulated status 1)"),
    ] {
        let device = open().unwrap();
        let own = device.allocate(64).unwrap();
        own.clear(0, 64);
        device.finish().unwrap();
        fail(Some(call), 1, code);
        own.write(0, vec![1; 64]);
        own.clear(0, 32);
        let fault = device.allocate(8).map(|_| ()).and_then(|()| device.finish()).unwrap_err();
        assert!(fault.to_string().contains(part), "{fault}");
        assert_eq!((own.read(0, 8).unwrap_err(), device.fault().unwrap()), (fault.clone(), &fault));
        fail(None, 0, 0);
        // the device does not come back to life, though the driver would answer again
        assert_eq!(device.finish().unwrap_err(), fault);
    }
    // another device is not touched
    memory.clear(0, 1024);
    assert_eq!(memory.read(0, 1024).unwrap(), vec![0; 1024]);
}

#[test]
fn devices_that_cannot_be_opened_say_why() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(device) = open() else { return };
    drop(device);
    fail(Some("cuModuleGetFunction"), 3, 500);
    let error = try_open().unwrap().unwrap_err();
    fail(None, 0, 0);
    assert_eq!(error.kind(), ErrorKind::Device);
    assert!(error.to_string().contains("cuModuleGetFunction says 500"), "{error}");
    fail(Some("cuDevicePrimaryCtxRetain"), 1, 2);
    let error = try_open().unwrap().unwrap_err();
    fail(None, 0, 0);
    assert!(error.to_string().contains("cuDevicePrimaryCtxRetain says 2"), "{error}");
    let gpu = probe::probe().unwrap().gpus.remove(0);
    let old = harvestd::compute::cuda::Gpu { capability: (7, 5), ..gpu };
    let libraries = Libraries::new(vec![built().unwrap().to_owned()], None, None);
    let error = Device::open(&old, &libraries, &Cache::new("/nowhere")).unwrap_err();
    assert!(error.to_string().contains("cuda:0 cannot be used: compute capability 7.5 is below 8.0"), "{error}");
    let fault = Fault::Ended { device: "cuda:0".into() };
    assert!(!fault.is_passing());
}
