"""What commands show, as blocks: laid out for a terminal or a pipe, and written in other forms."""
