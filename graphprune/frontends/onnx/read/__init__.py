"""From files to what is known of every value before lowering: shapes, types, small constants, control flow."""
