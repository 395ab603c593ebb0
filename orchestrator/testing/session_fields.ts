import type { SessionFields } from "../store/session.ts";

/** All that a session starts with. */
export function fields(change: Partial<SessionFields> = {}): SessionFields {
  return {
    sessionId: "5".repeat(32),
    sourcePath: "/home/ann/a b\n'\"é",
    region: "here",
    startupOptions: ["-jar", "a\nb", ""],
    startupOptionsHash: "beef",
    computeService: "process",
    handle: "",
    host: "",
    agentPort: 0,
    commandPort: 0,
    accessToken: "access",
    agentId: "agent",
    warnings: [],
    samePaths: false,
    synced: true,
    missingInstallBase: "",
    failure: "",
    failureTransient: false,
    holder: "",
    createdAt: 1_000,
    lastHeartbeat: 1_000,
    adoptedBy: "",
    ...change,
  };
}
