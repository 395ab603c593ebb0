#pragma once

#include <cstdlib>
#include <fstream>
#include <string>

// The path of a runfile of this workspace: beside the binary, or in the folder that Bazel names. The main repository is
// called _main where modules are on.
inline std::string Runfile(const std::string& argv0, const std::string& path) {
  const char* named = std::getenv("RUNFILES_DIR");
  for (const std::string& root : {argv0 + ".runfiles", std::string(named ? named : "")}) {
    for (const char* repository : {"rbs_cpp", "_main"}) {
      const std::string file = root + "/" + repository + "/" + path;
      if (std::ifstream(file)) return file;
    }
  }
  return path;
}
