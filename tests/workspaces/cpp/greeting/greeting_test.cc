#include "greeting/greeting.h"

#include <iostream>

int main() {
  if (Greeting("Ada") != "Hello, Ada!" || Greeting("") != "Hello, world!") {
    std::cerr << "wrong greeting: " << Greeting("Ada") << " " << Greeting("") << "\n";
    return 1;
  }
  std::cout << "greetings are right\n";
}
