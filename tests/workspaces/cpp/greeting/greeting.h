#pragma once

#include <string>

// "Hello, NAME!"; the world's name is used where there is none.
std::string Greeting(const std::string& name);
