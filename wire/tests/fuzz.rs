//! The fuzz targets `frame` and `codec`, from fixed seeds.

use kairo_wire::method::METHODS;

#[path = "../../fuzz/bodies/codec.rs"]
mod codec;
#[path = "../../fuzz/bodies/frame.rs"]
mod frame;
#[path = "../../fuzz/bodies/seed.rs"]
mod seed;

use seed::each_seed;

const INPUTS: u64 = 4000;

fn methods() -> Vec<&'static str> {
    METHODS.iter().map(|row| row.name).chain(["process.explode"]).collect()
}

#[test]
fn spoiled_streams_of_frames_are_cut_the_same_way_everywhere() {
    each_seed(INPUTS, |seed| {
        let mut stream = Vec::new();
        for _ in 0..seed.below(5) {
            let payload = vec![seed.draw() as u8; seed.below(300)];
            stream.extend(seed::frame(seed.below(6) as u8, &payload));
        }
        seed::spoil(seed, &mut stream);
        let mut input = vec![seed.draw() as u8];
        input.extend(stream);
        frame::frame(&input);
    });
}

#[test]
fn spoiled_calls_neither_panic_nor_change_on_the_way() {
    let methods = methods();
    each_seed(INPUTS, |seed| {
        let mut payload = seed::call(seed, &methods);
        codec::codec(&payload);
        seed::spoil(seed, &mut payload);
        codec::codec(&payload);
    });
}

#[test]
fn any_value_is_read_written_and_read_the_same() {
    each_seed(INPUTS, |seed| {
        let mut payload = Vec::new();
        seed::value(seed, &mut payload, 6);
        codec::codec(&payload);
    });
}

#[test]
fn noise_is_refused_or_read_but_never_panics() {
    each_seed(INPUTS, |seed| {
        let noise: Vec<u8> = (0..seed.below(60)).map(|_| seed.draw() as u8).collect();
        codec::codec(&noise);
        frame::frame(&noise);
    });
}
