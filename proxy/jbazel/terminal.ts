/** The user's terminal. */
export interface Terminal {
  /** In characters. */
  size(): { columns: number; rows: number };
  /** Passes every key to the command unchanged, including Ctrl-C. May be called repeatedly. */
  makeRaw(): void;
  /** Restores the former mode. May be called without a change. */
  restore(): void;
}

/** This process's terminal; undefined unless input, output and error output are all terminals. */
export function openTerminal(): Terminal | undefined {
  if (!Deno.stdin.isTerminal() || !Deno.stdout.isTerminal() || !Deno.stderr.isTerminal()) return undefined;
  let raw = false;
  const restore = () => {
    if (!raw) return;
    raw = false;
    postProcess(true);
    try {
      Deno.stdin.setRaw(false);
    } catch { /* the terminal is gone */ }
  };
  // However the process ends, also by an uncaught error: the user's shell must not inherit a raw terminal.
  globalThis.addEventListener("unload", restore);
  return {
    size() {
      try {
        const { columns, rows } = Deno.consoleSize();
        if (columns > 0 && rows > 0) return { columns, rows };
      } catch { /* a terminal without a size */ }
      return { columns: 80, rows: 24 };
    },
    makeRaw() {
      Deno.stdin.setRaw(true);
      raw = true;
      postProcess(false);
    },
    restore,
  };
}

/**
 * The remote terminal has already converted "\n" to "\r\n", and full-screen programs mean a bare "\n". Deno's raw mode
 * still adds a "\r" (it leaves OPOST set, as of 2.9.6), so `stty` switches that off, where it may be run.
 */
function postProcess(on: boolean): void {
  const env = Object.fromEntries(Object.entries(Deno.env.toObject()).filter(([k]) => !/^(LD|DYLD)_/.test(k)));
  for (const program of ["/usr/bin/stty", "/bin/stty"]) {
    try {
      const args = [on ? "opost" : "-opost"];
      const stty = new Deno.Command(program, {
        args,
        clearEnv: true,
        env,
        stdin: "inherit",
        stdout: "null",
        stderr: "null",
      });
      if (stty.outputSync().success) return;
    } catch { /* not there, or not permitted: a few programs will look a little off */ }
  }
}
