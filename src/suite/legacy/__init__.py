"""What the older services' clients and installations go on working with."""
