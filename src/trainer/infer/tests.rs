use crate::compute::cpu::Cpu;
use crate::evaluation::geometry::Dictionary;
use crate::sae::codes::Codes;
use crate::trainer::Trainer;

/// That a trainer's directions are those of what it computes on `rows`: reported values times decoder rows are its
/// reconstruction, but for a constant; values are linear in the input by encoder rows, where `linear` says that they are; and
/// the coder that is exported, if one is, has the same directions and reports the same values.
pub(crate) fn has_the_directions_of_what_it_computes(trainer: &Trainer<Cpu>, rows: &[f32], linear: bool, what: &str) {
    let (mut out, mut codes) = (Vec::new(), Codes::default());
    trainer.code(rows, &mut out, &mut codes).unwrap();
    let dictionary = trainer.dictionary().unwrap_or_else(|| panic!("{what}: no directions"));
    let (f, width) = (trainer.n_latents(), dictionary.decoder_width);
    assert_eq!((dictionary.len(), out.len()), (f, codes.len() * width), "{what}");
    let dense = codes.dense(f);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let column = |p: usize| -> Vec<f32> { dictionary.decoder.chunks(width).map(|row| row[p]).collect() };
    let columns: Vec<Vec<f32>> = (0..width).map(column).collect();
    let constant = |row: usize, p: usize| f64::from(out[row * width + p]) - dot(&dense[row * f..][..f], &columns[p]);
    let largest = |p: usize| out.iter().skip(p).step_by(width).fold(0f64, |a, &x| a.max(f64::from(x).abs()));
    for p in 0..width {
        let tolerance = 1e-4 * largest(p).max(1e-6);
        for row in 1..codes.len() {
            let off = constant(row, p) - constant(0, p);
            assert!(off.abs() < tolerance, "{what}: {off} at value {p} of row {row}");
        }
    }
    assert!(codes.entries() > 0 && dictionary.decoder.iter().any(|x| *x != 0.0), "{what}: says nothing");
    let d = rows.len() / codes.len();
    let mut compared = 0;
    for latent in (0..f).filter(|_| linear) {
        let encoder = &dictionary.encoder[latent * d..][..d];
        let fired = (0..codes.len()).filter(|row| dense[row * f + latent] != 0.0);
        let bias = |row: usize| f64::from(dense[row * f + latent]) - dot(encoder, &rows[row * d..][..d]);
        let biases: Vec<f64> = fired.map(bias).collect();
        for other in biases.iter().skip(1) {
            assert!((other - biases[0]).abs() < 1e-3, "{what}: {other} and {} of latent {latent}", biases[0]);
            compared += 1;
        }
    }
    assert!(!linear || compared > 10, "{what}: {compared}");
    if let Ok(exported) = trainer.exported(Default::default()) {
        let other = Dictionary::from(&exported);
        assert!(other.encoder == dictionary.encoder && other.decoder == dictionary.decoder, "{what}");
        let backend = Cpu::new(1).unwrap();
        let params = exported.upload(&backend);
        let inference = exported.inference(&backend, &params);
        let (mut out, mut reported) = (Vec::new(), Codes::default());
        inference.code(&backend, &exported.scales(), rows, &mut out, &mut reported);
        for (at, (a, b)) in dense.iter().zip(&reported.dense(f)).enumerate() {
            assert!((a - b).abs() < 1e-3 * a.abs().max(1.0), "{what}: {a} and {b} of latent {}", at % f);
        }
    }
}
