#include <fstream>
#include <iostream>
#include <string>

#include "greeting/greeting.h"
#include "greeting/runfiles.h"

int main(int argc, char** argv) {
  std::ifstream names(Runfile(argv[0], "data/names.txt"));
  if (!names) {
    std::cerr << "hello: data/names.txt is not in the runfiles\n";
    return 1;
  }
  for (std::string name; std::getline(names, name);) std::cout << Greeting(name) << "\n";
  for (int i = 1; i < argc; ++i) std::cout << Greeting(argv[i]) << "\n";
}
