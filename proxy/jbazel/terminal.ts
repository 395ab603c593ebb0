/** The user's terminal. */
export interface Terminal {
  /** In characters. */
  size(): { columns: number; rows: number };
  /** Every key goes to the command as it is, Ctrl-C too. Harmless when it is so already. */
  makeRaw(): void;
  /** As it was before. Harmless when it was never changed. */
  restore(): void;
}

/** The terminal of this process, or undefined unless its input, output and error output are all one. */
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
  // Whatever ends the process, an uncaught error too: the user's shell must not inherit a raw terminal.
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
 * The far terminal has made "\r\n" of "\n" already, and full-screen programs mean a bare "\n". Deno's raw mode still
 * adds a "\r" (it leaves OPOST set, as of 2.9.6), so that is switched by `stty`, where it may be run.
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
