import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { MissingTools } from "./missing_tools.ts";

const HERE = ["/home/ann/.pyenv/shims/python3.12", "/home/ann/ws/bin/own", "/usr/bin/gcc", "/home/ann/.local/bin/uv"];
const PLACE = {
  searchPath: "/home/ann/.pyenv/shims:/home/ann/ws/bin:/usr/bin:/home/ann/.local/bin:relative",
  home: "/home/ann",
  synced: ["/home/ann/ws"],
  exists: (path: string) => HERE.includes(path),
};

function warning(...texts: string[]): string | undefined {
  const tools = new MissingTools();
  for (const text of texts) tools.read(Buffer.from(text));
  return tools.warning(PLACE);
}

Deno.test("a tool that only the developer's home has is named with its folder", () => {
  for (
    const text of [
      "/bin/bash: line 1: python3.12: command not found\n",
      "bash: python3.12: command not found",
      "/bin/sh: 1: python3.12: not found\r\n",
      "/usr/bin/env: ‘python3.12’: No such file or directory\n",
      "env: 'python3.12': No such file or directory",
      'exec: "python3.12": executable file not found in $PATH',
    ]
  ) {
    assert.equal(
      warning("INFO: Analyzed\n", text),
      "Only this machine has python3.12 in /home/ann/.pyenv/shims: the build server's machine has nothing of your PATH " +
        "below /home/ann; install it there, or have the workspace bring its own.",
      text,
    );
  }
  assert.match(
    warning("bash: uv: command not found\nbash: python3.12: command not found\n")!,
    /^Only this machine has uv in \/home\/ann\/\.local\/bin, python3\.12 in /,
  );
});

Deno.test("what is nowhere here, what the agent has as well, and what is named by its path is not", () => {
  for (
    const text of [
      "bash: nothing: command not found",
      "bash: gcc: command not found",
      "bash: own: command not found",
      "cat: /home/ann/.pyenv/shims/python3.12: No such file or directory",
      "python3.12 is fine",
      "",
    ]
  ) assert.equal(warning(text), undefined, text);
});
