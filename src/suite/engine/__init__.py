"""llama.cpp and the files it runs: the one package that imports llama_cpp."""
