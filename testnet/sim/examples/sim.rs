//! scratch
fn main() {
    use clap::Parser;
    #[derive(Parser)]
    struct C {
        #[command(flatten)]
        o: pumasi_sim::SimOptions,
    }
    let c = C::parse();
    std::process::exit(if pumasi_sim::main(&c.o) { 0 } else { 1 })
}
